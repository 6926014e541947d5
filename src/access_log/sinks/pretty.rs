//! Records as text for a terminal, for development.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use super::{
    json::words,
    lines::{LineOutput, Words},
    sink::Sink,
};
use crate::{
    access_log::{
        emit::{drop_counts::DropCounts, weight::Weight},
        record::{record::Record, schema::LOSS_EVENT_NAME},
    },
    core::{
        json, notice,
        record::AuthOutcome,
        time::{Clock, SystemClock, Timestamp},
    },
};

/// Writes each record as one human-readable line, for a terminal during development.
///
/// ```text
/// 12:00:00.123 INFO  200 GET /things/7?page=REDACTED 7.2ms 5B key=key_7 limit=allowed cache=hit
/// ```
///
/// The format can change in any release. Values from requests are escaped as in JSON, so they can
/// neither break the line nor send control sequences to the terminal.
///
/// ```
/// use portcullis::access_log::{AccessLogLayer, sinks::PrettyLines};
///
/// let layer = AccessLogLayer::new(PrettyLines::stderr());
/// # let _ = layer;
/// ```
#[derive(Clone, Debug)]
pub struct PrettyLines {
    lines: Arc<LineOutput>,
}

impl PrettyLines {
    /// Writes to stderr.
    pub fn stderr() -> Self {
        Self::writer(io::stderr())
    }

    /// Writes to this writer on a dedicated thread, like
    /// [`JsonLines`](crate::access_log::sinks::JsonLines).
    pub fn writer(writer: impl Write + Send + 'static) -> Self {
        Self::new(LineOutput::queued(writer, PrettyWords))
    }

    /// Writes to this writer on the thread that serves the request.
    pub fn direct(writer: impl Write + Send + 'static) -> Self {
        Self::new(LineOutput::direct(writer, PrettyWords))
    }

    fn new(lines: Arc<LineOutput>) -> Self {
        Self { lines }
    }

    /// Waits until the writer has accepted all lines, but no longer than `at_most`. Returns `true`
    /// if the writer has accepted them. This method blocks the calling thread.
    pub fn flush(&self, at_most: Duration) -> bool {
        self.lines.flush(at_most)
    }

    /// Returns the number of lost lines, by reason.
    pub fn drop_counts(&self) -> DropCounts {
        self.lines.drop_counts()
    }
}

impl Sink for PrettyLines {
    fn write(&self, record: &Record<'_>) {
        let mut line = String::with_capacity(160);
        push_line(&mut line, record).expect("writing to a string never fails");
        let (weight, at) = (Weight::of(record), record.arrived_at());
        self.lines.take(weight, line.as_bytes(), at);
    }

    fn drop_counts(&self) -> DropCounts {
        self.lines.drop_counts()
    }
}

/// Text lines other than records.
struct PrettyWords;

impl Words for PrettyWords {
    fn loss(&self, _: Timestamp, reason: &'static str, lost: u64) -> Vec<u8> {
        format!("{LOSS_EVENT_NAME}={lost} reason={reason}\n").into_bytes()
    }

    fn notice(&self, message: &str) -> (Timestamp, Vec<u8>) {
        (SystemClock::new().wall(), notice::plain(message))
    }
}

fn push_line(out: &mut String, record: &Record<'_>) -> fmt::Result {
    let time = record.arrived_at().as_millis();
    let (secs, millis) = (time / 1_000 % 86_400, time % 1_000);
    let (hours, minutes, secs) = (secs / 3_600, secs / 60 % 60, secs % 60);
    write!(out, "{hours:02}:{minutes:02}:{secs:02}.{millis:03} ")?;
    write!(out, "{:<5} ", record.level().as_str())?;
    match record.status() {
        Some(status) => write!(out, "{} ", status.as_str())?,
        None => out.push_str("--- "),
    }
    write!(out, "{} {}", record.method(), escaped(&record.path()))?;
    if let Some(query) = record.query() {
        write!(out, "?{}", escaped(&query))?;
    }
    if record.is_start() {
        out.push_str(" started");
    } else {
        let (duration, bytes) = (Millis(record.duration()), record.response_bytes());
        write!(out, " {duration} {bytes}B")?;
    }
    push_notes(out, record)?;
    out.push('\n');
    Ok(())
}

/// Writes the fields that not every request has.
fn push_notes(out: &mut String, record: &Record<'_>) -> fmt::Result {
    if let Some(error) = record.error_type() {
        write!(out, " error={error}")?;
    }
    if record.is_slow() {
        out.push_str(" slow");
    }
    if record.repeat_count() > 1 {
        write!(out, " repeats={}", record.repeat_count())?;
    }
    let auth = record.data().auth();
    if let Some(key_id) = words::auth_key_id(auth) {
        write!(out, " key={}", escaped(key_id))?;
    }
    if let Some(AuthOutcome::Denied { reason, .. }) = auth {
        write!(out, " denied={}", reason.as_str())?;
    }
    if let Some((decision, _)) = record.rate_limit() {
        write!(out, " limit={}", decision.as_str())?;
    }
    if let Some(cache) = record.cache() {
        write!(out, " cache={}", cache.source.as_str())?;
    }
    if let Some(trace_id) = record.trace_id() {
        write!(out, " trace={trace_id}")?;
    }
    if let Some(fields) = record.fields_json() {
        write!(out, " {fields}")?;
    }
    Ok(())
}

/// A duration in milliseconds, with one decimal.
struct Millis(Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = self.0.as_micros() / 100;
        write!(f, "{}.{}ms", tenths / 10, tenths % 10)
    }
}

/// Returns text escaped as in JSON, without the quotes.
fn escaped(text: &str) -> Cow<'_, str> {
    let plain = |byte: u8| (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\';
    if text.bytes().all(plain) {
        return Cow::Borrowed(text);
    }
    let mut quoted = Vec::with_capacity(text.len() + 2);
    json::push_string(&mut quoted, text);
    let inner = &quoted[1..quoted.len() - 1];
    Cow::Owned(String::from_utf8_lossy(inner).into_owned())
}
