//! Request ids: generated UUIDs, or the ids of trusted callers.

use std::fmt;

use http::HeaderValue;

pub(super) const UUID_BYTES: usize = 36;

/// The id of a request, in its record and in the response's `x-request-id`.
///
/// It is a UUIDv7, unless a trusted caller sent an id. UUIDv7s sort by the arrival of their
/// requests, with millisecond precision. It is not a secret and can be guessed.
#[derive(Clone)]
pub struct RequestId(pub(super) RequestIdKind);

#[derive(Clone)]
#[cfg_attr(
    not(feature = "access-log"),
    allow(dead_code, reason = "the access log alone names requests")
)]
pub(super) enum RequestIdKind {
    Own([u8; UUID_BYTES]),
    Inbound(HeaderValue),
}

impl RequestId {
    /// Returns the id.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            RequestIdKind::Own(text) => str::from_utf8(text).expect("a UUID is ASCII"),
            RequestIdKind::Inbound(value) => value.to_str().expect("an accepted name is ASCII"),
        }
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({self})")
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
