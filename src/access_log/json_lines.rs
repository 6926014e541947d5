//! Records as lines of JSON, to any writer.

use std::{
    fmt,
    io::{self, Write},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{encode, record::Record, schema::Names, sink::Sink};
use crate::time::Timestamp;

/// Writes each record as one line of JSON, by one call of the writer.
///
/// The writer is called on the thread that serves the request: one that blocks, such as a pipe that
/// nobody reads, blocks requests too. What a writer refuses is counted, and the count stands in the
/// next line that it takes.
///
/// ```
/// use portcullis::access_log::{AccessLogLayer, JsonLines, Names};
///
/// let layer = AccessLogLayer::new(JsonLines::stdout().names(Names::Short));
/// # let _ = layer;
/// ```
pub struct JsonLines<W> {
    writer: Mutex<W>,
    names: Names,
    lost: AtomicU64,
}

impl JsonLines<io::Stderr> {
    /// Writes to stderr.
    pub fn stderr() -> Self {
        Self::writer(io::stderr())
    }
}

impl JsonLines<io::Stdout> {
    /// Writes to stdout.
    pub fn stdout() -> Self {
        Self::writer(io::stdout())
    }
}

impl<W: Write + Send + 'static> JsonLines<W> {
    /// Writes to this writer: a file, say. It is not flushed: let it write through.
    pub fn writer(writer: W) -> Self {
        Self {
            writer: Mutex::new(writer),
            names: Names::default(),
            lost: AtomicU64::new(0),
        }
    }

    /// Sets by whose convention the fields are named: OpenTelemetry's by default.
    #[must_use]
    pub fn names(mut self, names: Names) -> Self {
        self.names = names;
        self
    }

    /// Returns how many records the writer has refused since it last took one.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn write_line(&self, line: &[u8], at: Timestamp) -> io::Result<()> {
        // A line is whole or it is an error: what a panicking writer left behind is its own affair.
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = self.lost();
        if lost > 0 {
            let mut loss = encode::loss(self.names, at, "sink_failed", lost);
            loss.push(b'\n');
            writer.write_all(&loss)?;
            self.lost.fetch_sub(lost, Ordering::Relaxed);
        }
        writer.write_all(line)
    }
}

impl<W: Write + Send + 'static> Sink for JsonLines<W> {
    fn write(&self, record: &Record<'_>) {
        let at = record.arrived_at();
        let written = record.with_json_line(self.names, |line| self.write_line(line, at));
        if written.is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<W> fmt::Debug for JsonLines<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonLines")
            .field("names", &self.names)
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}
