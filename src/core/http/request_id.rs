//! Request ids, which are generated UUIDs or the ids that trusted callers send.

use std::fmt;

use http::HeaderValue;

pub(super) const UUID_BYTES: usize = 36;

/// The id of a request. It appears in the request's record and in the response's `x-request-id`
/// field.
///
/// The id is a UUIDv7, unless a trusted caller sent an id. UUIDv7 values sort by the arrival time
/// of their requests, with millisecond precision. A request id is not a secret and can be guessed.
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
    /// Returns the id as a string slice.
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
