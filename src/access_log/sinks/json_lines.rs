//! Records as JSON lines, to any writer.

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
/// The writer is called on a dedicated thread, which starts with the first line, so requests do not
/// wait even if the writer blocks forever. Up to 4 MiB of lines are queued. When the writer is
/// slower than the requests, the least important lines are lost first: records of successful
/// requests can use three quarters of the queue, records of failed or denied requests seven
/// eighths. The last eighth is reserved for audit events and notices. Lost lines, including those
/// that the writer rejects, are counted, and a `portcullis.log.lost` line reports their number when
/// the writer accepts lines again. The first failure after a success also emits a notice that names
/// the stream or file, the error and the fix.
///
/// On stderr and stdout, notices of this crate are also log lines: `portcullis.notice` events,
/// written by the same thread so that they never interleave with a record. If a `tracing`
/// subscriber is installed (feature `tracing`), it receives the notices instead.
///
/// Lines are written within about 10 ms. When the last clone is dropped, as on server shutdown, the
/// writer has one second to write the remaining lines. A killed process loses them;
/// [`flush`](Self::flush) waits for them. [`JsonLines::direct`] needs no thread.
///
/// Clones share the writer. `JsonLines` is also an [`Auditor`]: audit events are lines among the
/// records, distinguished by `event.name`.
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

/// JSON lines other than records.
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

    /// Writes to this writer, such as a file, on a dedicated thread.
    ///
    /// The writer receives whole lines, several per call under load, and is flushed when the queue
    /// is empty.
    pub fn writer(writer: impl Write + Send + 'static) -> Self {
        Self::new(LineOutput::queued(writer, JsonWords::default()))
    }

    /// Writes to this writer on the thread that serves the request, one call per record, for
    /// writers that never wait, such as a buffer in memory.
    ///
    /// A writer that blocks delays requests. The writer is not flushed, so use one that writes
    /// through.
    pub fn direct(writer: impl Write + Send + 'static) -> Self {
        Self::new(LineOutput::direct(writer, JsonWords::default()))
    }

    fn new(lines: Arc<LineOutput>) -> Self {
        Self {
            lines,
            words: JsonWords::default(),
        }
    }

    /// Sets the naming convention of the fields. Defaults to [`FieldNaming::Otel`].
    #[must_use]
    pub fn field_naming(mut self, names: FieldNaming) -> Self {
        self.words.names = names;
        self.lines.set_words(self.words.clone());
        self
    }

    /// Sets the maximum number of queued bytes. Defaults to 4 MiB. Has no effect on
    /// [`JsonLines::direct`].
    #[must_use]
    pub fn max_bytes(self, bytes: usize) -> Self {
        self.lines.set_max_bytes(bytes);
        self
    }

    /// Sets the clock that sets the time of audit events and notices. Defaults to the system clock.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.words.clock = Arc::new(clock);
        self.lines.set_words(self.words.clone());
        self
    }

    /// Waits at most `at_most` until the writer has accepted all lines, and returns `true` if it
    /// has. Blocks the calling thread; for the end of the process.
    pub fn flush(&self, at_most: Duration) -> bool {
        self.lines.flush(at_most)
    }

    /// Returns the number of lost lines, by reason.
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
