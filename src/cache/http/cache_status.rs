//! `Cache-Status` (RFC 9211), and the same values for the access record.

use std::{fmt, sync::OnceLock};

use http::{HeaderName, HeaderValue, StatusCode};

use crate::{
    cache::lookup::reason::CacheReason,
    core::record::{CacheOutcome, CacheSource},
};

/// The name of the field.
pub(crate) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// The name of a cache in `Cache-Status`, and the values that it sends repeatedly.
///
/// The value for a response that is neither stored nor from the store has no lifetime, so it is one
/// of a few. Each is rendered once and shared by the responses that have it.
pub(crate) struct CacheName {
    name: Box<str>,
    forwarded: Box<[[OnceLock<HeaderValue>; REASONS]; FORWARDS]>,
}

const FORWARDS: usize = Forward::Stale as usize + 1;
/// The number of values of [`CacheReason`], and one for none.
const REASONS: usize = CacheReason::Backoff as usize + 2;

impl CacheName {
    pub(crate) fn new(name: impl Into<Box<str>>) -> Self {
        Self {
            name: name.into(),
            forwarded: Box::new([const { [const { OnceLock::new() }; REASONS] }; FORWARDS]),
        }
    }

    /// Returns the value for a report, with the key if one is given.
    #[inline]
    pub(crate) fn value(&self, report: Report, key: Option<[u8; 8]>) -> HeaderValue {
        let render = || report.to_value(&self.name, key);
        match self.shared(&report) {
            Some(shared) if key.is_none() => shared.get_or_init(render).clone(),
            Some(_) | None => render(),
        }
    }

    /// Returns the slot of a value that contains no number.
    fn shared(&self, report: &Report) -> Option<&OnceLock<HeaderValue>> {
        let has_more = report.stored
            || report.collapsed
            || report.ttl_secs.is_some()
            || report.forward_status.is_some();
        let forward = report.forward.filter(|_| !has_more)?;
        let reason = report.reason.map_or(0, |reason| reason as usize + 1);
        self.forwarded.get(forward as usize)?.get(reason)
    }
}

impl fmt::Debug for CacheName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}

/// The result of the cache for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) source: CacheSource,
    /// The reason why the handler was called, if it was.
    pub(crate) forward: Option<Forward>,
    /// The status of the handler's response, if the client receives another one.
    pub(crate) forward_status: Option<StatusCode>,
    /// The remaining freshness lifetime of the response.
    pub(crate) ttl_secs: Option<i64>,
    pub(crate) stored: bool,
    pub(crate) collapsed: bool,
    pub(crate) reason: Option<CacheReason>,
}

/// The reason why the handler was called (RFC 9211 section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forward {
    Bypass,
    Method,
    UriMiss,
    VaryMiss,
    Partial,
    Request,
    Stale,
}

impl Forward {
    fn as_str(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Method => "method",
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Partial => "partial",
            Self::Request => "request",
            Self::Stale => "stale",
        }
    }
}

impl Report {
    /// Creates a report on a response from the store.
    pub(crate) fn hit(source: CacheSource, ttl_secs: i64) -> Self {
        Self {
            source,
            forward: None,
            forward_status: None,
            ttl_secs: Some(ttl_secs),
            stored: false,
            collapsed: false,
            reason: None,
        }
    }

    /// Creates a report on a response from the handler.
    pub(crate) fn forwarded(source: CacheSource, forward: Forward) -> Self {
        Self {
            source,
            forward: Some(forward),
            forward_status: None,
            ttl_secs: None,
            stored: false,
            collapsed: false,
            reason: None,
        }
    }

    pub(crate) fn reason(self, reason: impl Into<Option<CacheReason>>) -> Self {
        Self {
            reason: reason.into(),
            ..self
        }
    }

    /// Returns the value of the field for the cache of this name.
    fn to_value(self, name: &str, key: Option<[u8; 8]>) -> HeaderValue {
        let mut line = StatusLine::default();
        line.push(name);
        match self.forward {
            None if self.source == CacheSource::Miss => {}
            None => line.push("; hit"),
            Some(forward) => line.push_pair("; fwd=", forward.as_str()),
        }
        if let Some(status) = self.forward_status {
            line.push_pair("; fwd-status=", status.as_str());
        }
        if self.stored {
            line.push("; stored");
        }
        if self.collapsed {
            line.push("; collapsed");
        }
        if let Some(secs) = self.ttl_secs {
            line.push("; ttl=");
            line.push_number(secs);
        }
        if let Some(key) = key {
            line.push("; key=\"");
            for byte in key {
                line.push_hex(byte);
            }
            line.push("\"");
        }
        if let Some(reason) = self.reason {
            line.push_pair("; detail=", reason.as_str());
        }
        HeaderValue::from_bytes(line.as_bytes()).expect("tokens and digits are visible ASCII")
    }

    /// Returns the outcome for the access record.
    pub(crate) fn to_outcome(self) -> CacheOutcome {
        let mut outcome = CacheOutcome::new(self.source);
        outcome.detail = self.reason.map(CacheReason::as_str);
        outcome.ttl_secs = self.ttl_secs;
        outcome.stored = self.stored;
        outcome.collapsed = self.collapsed;
        outcome
    }
}

/// A short line that is written without an allocation. Text beyond the capacity is dropped; the
/// longest possible line is shorter.
struct StatusLine {
    bytes: [u8; 256],
    len: usize,
}

impl Default for StatusLine {
    fn default() -> Self {
        Self {
            bytes: [0; 256],
            len: 0,
        }
    }
}

impl StatusLine {
    #[inline(always)]
    fn push(&mut self, text: &str) {
        if let Some(room) = self.bytes.get_mut(self.len..self.len + text.len()) {
            room.copy_from_slice(text.as_bytes());
            self.len += text.len();
        }
    }

    fn push_pair(&mut self, name: &str, value: &str) {
        self.push(name);
        self.push(value);
    }

    fn push_hex(&mut self, byte: u8) {
        for digit in [byte >> 4, byte & 0xf] {
            let digit = b"0123456789abcdef"[usize::from(digit)];
            self.push(std::str::from_utf8(&[digit]).expect("a digit is ASCII"));
        }
    }

    fn push_number(&mut self, number: i64) {
        if number < 0 {
            self.push("-");
        }
        let mut rest = number.unsigned_abs();
        let digits = rest.checked_ilog10().unwrap_or(0) as usize + 1;
        if let Some(room) = self.bytes.get_mut(self.len..self.len + digits) {
            for place in room.iter_mut().rev() {
                *place = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
            self.len += digits;
        }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hit_reports_remaining_freshness() {
        let report = Report::hit(CacheSource::Hit, 57);
        assert_eq!(
            report.to_value("portcullis", None),
            "portcullis; hit; ttl=57"
        );
        let stale = Report::hit(CacheSource::Stale, -3).reason(CacheReason::Store);
        assert_eq!(stale.to_value("p", None), "p; hit; ttl=-3; detail=store");
    }

    #[test]
    fn forwarded_response_reports_the_reason() {
        let mut report = Report::forwarded(CacheSource::Miss, Forward::UriMiss);
        report.stored = true;
        assert_eq!(report.to_value("p", None), "p; fwd=uri-miss; stored");
        report.forward_status = Some(StatusCode::NOT_MODIFIED);
        report.collapsed = true;
        report.ttl_secs = Some(0);
        let line = "p; fwd=uri-miss; fwd-status=304; stored; collapsed; ttl=0";
        assert_eq!(report.to_value("p", None), line);
    }

    #[test]
    fn shares_the_values_of_responses_that_are_not_stored() {
        let name = CacheName::new("p");
        let every_forward = [
            Forward::Bypass,
            Forward::Method,
            Forward::UriMiss,
            Forward::VaryMiss,
            Forward::Partial,
            Forward::Request,
            Forward::Stale,
        ];
        for forward in every_forward {
            for reason in [None, Some(CacheReason::Method), Some(CacheReason::Backoff)] {
                let report = Report::forwarded(CacheSource::Miss, forward).reason(reason);
                let [first, second] = [(); 2].map(|()| name.value(report, None));
                assert_eq!(first, report.to_value("p", None));
                assert_eq!(first.as_bytes().as_ptr(), second.as_bytes().as_ptr());
            }
        }
    }

    #[test]
    fn per_response_values_are_never_reused() {
        let name = CacheName::new("p");
        let plain = Report::forwarded(CacheSource::Miss, Forward::UriMiss);
        assert_eq!(name.value(plain, None), "p; fwd=uri-miss");
        let mut stored = plain;
        stored.stored = true;
        let mut collapsed = plain;
        collapsed.collapsed = true;
        let mut timed = plain;
        timed.ttl_secs = Some(7);
        let mut translated = plain;
        translated.forward_status = Some(StatusCode::NOT_MODIFIED);
        for report in [stored, collapsed, timed, translated] {
            assert_eq!(name.value(report, None), report.to_value("p", None));
        }
        assert_eq!(
            name.value(plain, Some([0xa5; 8])),
            "p; fwd=uri-miss; key=\"a5a5a5a5a5a5a5a5\""
        );
        assert_eq!(name.value(plain, None), "p; fwd=uri-miss");
    }

    #[test]
    fn the_longest_line_fits() {
        let mut report = Report::hit(CacheSource::Miss, i64::MIN);
        report.forward = Some(Forward::UriMiss);
        report.forward_status = Some(StatusCode::OK);
        report.stored = true;
        report.collapsed = true;
        report.reason = Some(CacheReason::CredentialWithoutIdentity);
        let name = "n".repeat(64);
        let value = report.to_value(&name, Some([0xa5; 8]));
        assert!(
            value
                .to_str()
                .unwrap()
                .ends_with("a5\"; detail=credential-without-identity")
        );
    }
}
