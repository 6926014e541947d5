//! Records as lines of JSON, to any writer.

use std::{
    fmt,
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use super::{
    encode, lines::Lines, losses::Losses, record::Record, schema::Names, sink::Sink, weight::Weight,
};
use crate::{
    audit::{AuditEvent, Auditor},
    time::{Clock, SystemClock, Timestamp},
};

/// Writes each record as one line of JSON.
///
/// A writer may block for ever, such as a pipe that nobody reads: it is called on a thread of its
/// own, which starts with the first line, and no request waits for it. Up to 4 MiB of lines wait for
/// it. When it is slower than the requests, what matters least is lost first: requests that went
/// well may take three quarters of the room, those that failed or were denied seven eighths, and
/// audit events have the last eighth to themselves. What is lost, also because the writer failed, is
/// counted, and the count stands in the log as a line `portcullis.log.lost` as soon as the writer
/// takes one.
///
/// A line is written within about ten milliseconds. When the last clone is dropped, as it is when a
/// server has ended in good order, the writer has a second to take what is left; a process that is
/// killed loses it, and [`flush`](Self::flush) waits for it. [`JsonLines::direct`] does without the
/// thread.
///
/// A clone writes to the same writer. It is an [`Auditor`] too: audit events are lines beside the
/// records, and whoever collects them tells them apart by `event.name`.
///
/// ```
/// use portcullis::access_log::{AccessLogLayer, JsonLines, Names};
///
/// let layer = AccessLogLayer::new(JsonLines::stdout().names(Names::Short));
/// # let _ = layer;
/// ```
#[derive(Clone)]
pub struct JsonLines {
    lines: Arc<Lines>,
    names: Names,
    clock: Arc<dyn Clock>,
}

impl JsonLines {
    /// Writes to stderr.
    pub fn stderr() -> Self {
        Self::writer(io::stderr())
    }

    /// Writes to stdout.
    pub fn stdout() -> Self {
        Self::writer(io::stdout())
    }

    /// Writes to this writer, a file say, on a thread of its own.
    ///
    /// It gets whole lines, several by one call where they come fast, and is flushed when all that
    /// waited has been written.
    pub fn writer(writer: impl Write + Send + 'static) -> Self {
        Self::new(Lines::queued(writer, word_loss(Names::default())))
    }

    /// Writes to this writer on the thread that serves the request, each record by one call: for a
    /// writer that never waits, such as a buffer in memory.
    ///
    /// One that blocks blocks requests. It is not flushed: let it write through.
    pub fn direct(writer: impl Write + Send + 'static) -> Self {
        Self::new(Lines::direct(writer, word_loss(Names::default())))
    }

    fn new(lines: Lines) -> Self {
        Self {
            lines: Arc::new(lines),
            names: Names::default(),
            clock: Arc::new(SystemClock::new()),
        }
    }

    /// Sets by whose convention the fields are named: OpenTelemetry's by default.
    #[must_use]
    pub fn names(mut self, names: Names) -> Self {
        self.lines.set_word_loss(word_loss(names));
        self.names = names;
        self
    }

    /// Sets how many bytes of lines may wait for the writer. 4 MiB by default.
    #[must_use]
    pub fn bytes_max(self, bytes: usize) -> Self {
        self.lines.set_bytes_max(bytes);
        self
    }

    /// Sets the clock that dates audit events. The machine's by default.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Waits until the writer has taken all lines, but not longer than this, and returns whether it
    /// has: for the end of the process. The thread that calls it is blocked meanwhile.
    pub fn flush(&self, at_most: Duration) -> bool {
        self.lines.flush(at_most)
    }

    /// Returns how many lines were lost so far, and why.
    pub fn losses(&self) -> Losses {
        self.lines.losses()
    }
}

impl Sink for JsonLines {
    fn write(&self, record: &Record<'_>) {
        let (weight, at) = (Weight::of(record), record.arrived_at());
        record.with_json_line(self.names, |line| self.lines.take(weight, line, at));
    }

    fn losses(&self) -> Losses {
        self.lines.losses()
    }
}

impl Auditor for JsonLines {
    fn audit(&self, event: &AuditEvent) {
        let at = self.clock.wall();
        let mut line = encode::audit(self.names, at, event);
        line.push(b'\n');
        self.lines.take(Weight::Audit, &line, at);
    }
}

impl fmt::Debug for JsonLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonLines")
            .field("names", &self.names)
            .field("losses", &self.losses())
            .finish_non_exhaustive()
    }
}

fn word_loss(names: Names) -> impl Fn(Timestamp, &'static str, u64) -> Vec<u8> {
    move |at, reason, lost| {
        let mut line = encode::loss(names, at, reason, lost);
        line.push(b'\n');
        line
    }
}
