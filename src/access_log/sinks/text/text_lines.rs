//! Records in the Common Log Format or the Combined Log Format, to any writer.

use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use super::{clf, text_format::TextFormat};
use crate::{
    access_log::{
        emit::{drop_counts::DropCounts, weight::Weight},
        record::{record::Record, schema::LOSS_EVENT_NAME},
        sinks::{
            lines::{LineOutput, Words},
            sink::Sink,
        },
    },
    core::{
        notice,
        time::{Clock, SystemClock, Timestamp},
    },
};

/// Writes each record as one line in the format of Apache and nginx, for log analyzers.
///
/// ```text
/// 203.0.113.9 - acme [10/Oct/2000:13:55:36 +0000] "GET /a?q=REDACTED HTTP/1.1" 200 26 "-" "curl/8"
/// ```
///
/// | field | content |
/// |---|---|
/// | address | the client address, as in the other sinks |
/// | identity | always `-` |
/// | user | the owner or its digest if [recorded](crate::access_log::AccessLogLayerBuilder::include_user_id), or else the public id of the key; `-` unless authenticated |
/// | time | the arrival of the request, in UTC |
/// | request line | the method, the redacted path and query, and the version |
/// | status | `-` if the request was dropped before the response head was ready |
/// | bytes | the response body bytes that were handed to the server; `-` for 0 |
/// | `Referer`, `User-Agent` | the first value, if [recorded](crate::access_log::AccessLogLayerBuilder::request_headers), or else `-`; only in [`TextFormat::Combined`] |
///
/// All other fields of the record are omitted, including the number of requests that a sampled or
/// aggregated record represents. Start records are not written.
///
/// Values from requests are escaped as in Apache. Control characters and bytes outside of ASCII are
/// written as `\xHH`, and quotes and backslashes are preceded by a backslash. Outside of quotes and
/// in the request line, spaces are written as `\x20`. No value can forge a line or a field.
///
/// Lines that begin with `#` are not records. They report lost records and, on stderr and stdout,
/// this crate's notices. The writer is called in the same way as by
/// [`JsonLines`](crate::access_log::sinks::JsonLines).
///
/// ```
/// use http::header::{REFERER, USER_AGENT};
/// use portcullis::access_log::{AccessLogLayer, sinks::TextLines};
///
/// let layer = AccessLogLayer::builder()
///     .sink(TextLines::stdout())
///     .request_headers([REFERER, USER_AGENT])
///     .build()?;
/// # let _ = layer;
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct TextLines {
    lines: Arc<LineOutput>,
    format: TextFormat,
}

impl TextLines {
    /// Writes to stderr.
    pub fn stderr() -> Self {
        Self::writer(io::stderr())
    }

    /// Writes to stdout.
    pub fn stdout() -> Self {
        Self::writer(io::stdout())
    }

    /// Writes to this writer, such as a [`LogFile`](crate::access_log::sinks::LogFile), on a
    /// dedicated thread.
    pub fn writer(writer: impl Write + Send + 'static) -> Self {
        Self::new(LineOutput::queued(writer, CommentWords))
    }

    /// Writes to this writer on the thread that serves the request. Use this constructor for
    /// writers that never block, such as an in-memory buffer.
    pub fn direct(writer: impl Write + Send + 'static) -> Self {
        Self::new(LineOutput::direct(writer, CommentWords))
    }

    fn new(lines: Arc<LineOutput>) -> Self {
        Self {
            lines,
            format: TextFormat::default(),
        }
    }

    /// Sets the format. Defaults to [`TextFormat::Combined`].
    #[must_use]
    pub fn format(mut self, format: TextFormat) -> Self {
        self.format = format;
        self
    }

    /// Sets the maximum number of queued bytes. Defaults to 4 MiB. This option has no effect on
    /// [`TextLines::direct`].
    #[must_use]
    pub fn max_bytes(self, bytes: usize) -> Self {
        self.lines.set_max_bytes(bytes);
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

impl Sink for TextLines {
    fn write(&self, record: &Record<'_>) {
        if record.is_start() {
            return;
        }
        let mut line = Vec::with_capacity(256);
        clf::push_line(&mut line, record, self.format);
        let (weight, at) = (Weight::of(record), record.arrived_at());
        self.lines.take(weight, &line, at);
    }

    fn drop_counts(&self) -> DropCounts {
        self.lines.drop_counts()
    }
}

/// Lines other than records, which log analyzers skip as comments.
struct CommentWords;

impl Words for CommentWords {
    fn loss(&self, _: Timestamp, reason: &'static str, lost: u64) -> Vec<u8> {
        format!("# {LOSS_EVENT_NAME}={lost} reason={reason}\n").into_bytes()
    }

    fn notice(&self, message: &str) -> (Timestamp, Vec<u8>) {
        let line = [b"# ".as_slice(), &notice::plain(message)].concat();
        (SystemClock::new().wall(), line)
    }
}
