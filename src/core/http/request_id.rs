//! What a request is called: by a UUID of ours, or by a name that was sent with it.

use std::fmt;

use http::HeaderValue;

pub(super) const UUID_BYTES: usize = 36;

/// The name of one request: in its record, and in the response's `x-request-id`.
///
/// A UUIDv7 unless a trusted caller sent a name: two of them sort as their requests arrived, to the
/// millisecond. It is no secret, and can be guessed.
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
    /// Returns the name.
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
