//! Records as lines of JSON, to any writer.

use std::{
    fmt,
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use super::{
    json::event,
    lines::{LineOutput, Words},
    sink::Sink,
};
use crate::{
    access_log::{
        emit::{drop_counts::DropCounts, weight::Weight},
        record::{record::Record, schema::FieldNaming},
    },
    core::{
        audit::{AuditEvent, Auditor},
        time::{Clock, SystemClock, Timestamp},
    },
};

/// Writes each record as one line of JSON.
///
/// A writer may block forever, such as a pipe without a reader: it is called on a thread of its own,
/// which starts with the first line, and no request waits for it. Up to 4 MiB of lines wait for it. When
/// it is slower than the requests, the least important lines are lost first: requests that succeeded may
/// take three quarters of the queue, those that failed or were denied seven eighths, and the last eighth
/// is reserved for audit events and notices. Lost lines, also those that the writer refuses, are counted,
/// and a line `portcullis.log.lost` has their number as soon as the writer takes one. The first failure
/// of the writer after a success is also a notice, which names the stream or file, the error and the fix.
///
/// On stderr and stdout, the notices of this crate are lines of the log too: events `portcullis.notice`,
/// written by the same thread, so that none stands amid a record. Where a `tracing` subscriber is
/// installed (feature `tracing`), it receives the notices instead.
///
/// A line is written within about ten milliseconds. When the last clone is dropped, as it is when a
/// server has shut down, the writer has a second to take the rest; a process that is killed loses it, and
/// [`flush`](Self::flush) waits for it. [`JsonLines::direct`] needs no thread.
///
/// A clone writes to the same writer. It is an [`Auditor`] too: audit events are lines among the records,
/// told apart by `event.name`.
///
/// ```
/// use portcullis::access_log::{AccessLogLayer, sinks::JsonLines, FieldNaming};
///
/// let layer = AccessLogLayer::new(JsonLines::stdout().field_naming(FieldNaming::Short));
/// # let _ = layer;
/// ```
#[derive(Clone)]
pub struct JsonLines {
    lines: Arc<LineOutput>,
    words: JsonWords,
}

/// Lines that are no records, as JSON.
#[derive(Clone)]
struct JsonWords {
    names: FieldNaming,
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
        Self::new(LineOutput::queued(writer, JsonWords::default()))
    }

    /// Writes to this writer on the thread that serves the request, each record by one call: for a
    /// writer that never waits, such as a buffer in memory.
    ///
    /// One that blocks blocks requests. It is not flushed: let it write through.
    pub fn direct(writer: impl Write + Send + 'static) -> Self {
        Self::new(LineOutput::direct(writer, JsonWords::default()))
    }

    fn new(lines: Arc<LineOutput>) -> Self {
        Self {
            lines,
            words: JsonWords::default(),
        }
    }

    /// Sets by whose convention the fields are named: OpenTelemetry's by default.
    #[must_use]
    pub fn field_naming(mut self, names: FieldNaming) -> Self {
        self.words.names = names;
        self.lines.set_words(self.words.clone());
        self
    }

    /// Sets how many bytes of lines may wait for the writer. 4 MiB by default.
    #[must_use]
    pub fn max_bytes(self, bytes: usize) -> Self {
        self.lines.set_bytes_max(bytes);
        self
    }

    /// Sets the clock that dates audit events and notices. Defaults to the system clock.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.words.clock = Arc::new(clock);
        self.lines.set_words(self.words.clone());
        self
    }

    /// Waits until the writer has taken all lines, but not longer than this, and returns whether it
    /// has: for the end of the process. The thread that calls it is blocked meanwhile.
    pub fn flush(&self, at_most: Duration) -> bool {
        self.lines.flush(at_most)
    }

    /// Returns how many lines were lost so far, and why.
    pub fn drop_counts(&self) -> DropCounts {
        self.lines.drop_counts()
    }
}

impl Sink for JsonLines {
    fn write(&self, record: &Record<'_>) {
        let (weight, at) = (Weight::of(record), record.arrived_at());
        record.with_json_line(self.words.names, |line| self.lines.take(weight, line, at));
    }

    fn drop_counts(&self) -> DropCounts {
        self.lines.drop_counts()
    }
}

impl Auditor for JsonLines {
    fn audit(&self, event: &AuditEvent) {
        let at = self.words.clock.wall();
        let line = ended(event::audit(self.words.names, at, event));
        self.lines.take(Weight::Audit, &line, at);
    }
}

impl fmt::Debug for JsonLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonLines")
            .field("names", &self.words.names)
            .field("drop_counts", &self.drop_counts())
            .finish_non_exhaustive()
    }
}

impl Default for JsonWords {
    fn default() -> Self {
        Self {
            names: FieldNaming::default(),
            clock: Arc::new(SystemClock::new()),
        }
    }
}

impl Words for JsonWords {
    fn loss(&self, at: Timestamp, reason: &'static str, lost: u64) -> Vec<u8> {
        ended(event::loss(self.names, at, reason, lost))
    }

    fn notice(&self, message: &str) -> (Timestamp, Vec<u8>) {
        let at = self.clock.wall();
        (at, ended(event::notice(self.names, at, message)))
    }
}

fn ended(mut line: Vec<u8>) -> Vec<u8> {
    line.push(b'\n');
    line
}
