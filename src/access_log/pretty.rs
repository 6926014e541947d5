//! Records as text for a terminal, while one develops.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
    io::{self, Write},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::{encode, record::Record, sink::Sink};
use crate::{json, record::AuthOutcome};

/// Writes each record as one line for people: for a terminal, while one develops.
///
/// ```text
/// 12:00:00.123 INFO  200 GET /things/7?page=REDACTED 7.2ms 5B key=key_7 limit=allowed cache=hit
/// ```
///
/// Its form is nobody's to rely on. What comes from a request is escaped as in JSON, so that it
/// can neither break the line nor command the terminal.
///
/// ```
/// use portcullis::access_log::{AccessLogLayer, PrettyLines};
///
/// let layer = AccessLogLayer::new(PrettyLines::stderr());
/// # let _ = layer;
/// ```
pub struct PrettyLines<W> {
    writer: Mutex<W>,
}

impl PrettyLines<io::Stderr> {
    /// Writes to stderr.
    pub fn stderr() -> Self {
        Self::writer(io::stderr())
    }
}

impl<W: Write + Send + 'static> PrettyLines<W> {
    /// Writes to this writer.
    pub fn writer(writer: W) -> Self {
        Self {
            writer: Mutex::new(writer),
        }
    }
}

impl<W: Write + Send + 'static> Sink for PrettyLines<W> {
    fn write(&self, record: &Record<'_>) {
        let mut line = String::with_capacity(160);
        push_line(&mut line, record).expect("a string takes all that is written");
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        // A terminal that is gone has no reader to miss the line.
        let _ = writer.write_all(line.as_bytes());
    }
}

impl<W> fmt::Debug for PrettyLines<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrettyLines")
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
    write!(
        out,
        " {} {}B",
        Millis(record.duration()),
        record.response_bytes()
    )?;
    push_notes(out, record)?;
    out.push('\n');
    Ok(())
}

/// Writes what is not the same for every request.
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
    let auth = record.slots().auth();
    if let Some(key_id) = encode::auth_key_id(auth) {
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
    if let Some(fields) = record.fields_json() {
        write!(out, " {fields}")?;
    }
    Ok(())
}

/// A duration in milliseconds, to a tenth.
struct Millis(Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = self.0.as_micros() / 100;
        write!(f, "{}.{}ms", tenths / 10, tenths % 10)
    }
}

/// Returns a text escaped as in JSON, without the quotes around it.
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
