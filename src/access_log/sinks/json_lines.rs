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
/// The writer is called on a dedicated thread, which starts with the first line. Requests therefore
/// do not wait for the writer, even if it blocks forever. Up to 4 MiB of lines are queued. If the
/// writer is too slow, the least important lines are lost first. Records of successful requests can
/// use three quarters of the queue, and records of failed or denied requests can use seven eighths.
/// The last eighth is reserved for audit events and notices. Lost lines, including those that the
/// writer rejects, are counted. When the writer accepts lines again, a `portcullis.log.lost` line
/// reports their number. The first failure after a success also emits a notice that contains the
/// stream or file, the error and the fix.
///
/// On stderr and stdout, this crate's notices are also log lines: `portcullis.notice` events. The
/// same thread writes them, so they never interleave with a record. If a `tracing` subscriber is
/// installed (feature `tracing`), the subscriber receives the notices instead.
///
/// Lines are written within about 10 ms. When the last clone is dropped, as on server shutdown, the
/// writer has one second to write the remaining lines. If the process is killed, these lines are
/// lost. [`flush`](Self::flush) waits until all lines are written. [`JsonLines::direct`] needs no
/// thread.
///
/// Clones share the writer. `JsonLines` is also an [`Auditor`]. It writes audit events as lines
/// between the records, with their own `event.name`.
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

    /// Writes to this writer, such as a [`LogFile`](super::LogFile), on a dedicated thread.
    ///
    /// The writer receives whole lines, several per call under load, and is flushed when the queue
    /// is empty.
    pub fn writer(writer: impl Write + Send + 'static) -> Self {
        Self::new(LineOutput::queued(writer, JsonWords::default()))
    }

    /// Writes to this writer on the thread that serves the request, with one call per record. Use
    /// this constructor for writers that never block, such as an in-memory buffer.
    ///
    /// A writer that blocks delays requests. The writer is not flushed, so use a writer that does
    /// not buffer its output.
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

    /// Sets the maximum number of queued bytes. Defaults to 4 MiB. This option has no effect on
    /// [`JsonLines::direct`].
    #[must_use]
    pub fn max_queued_bytes(self, bytes: usize) -> Self {
        self.lines.set_max_bytes(bytes);
        self
    }

    /// Sets the clock that provides the time of audit events and notices. Defaults to the system
    /// clock.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.words.clock = Arc::new(clock);
        self.lines.set_words(self.words.clone());
        self
    }

    /// Waits until the writer has accepted all lines, but no longer than `at_most`. Returns `true`
    /// if the writer has accepted them. This method blocks the calling thread; call it at the end
    /// of the process.
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
