//! The assignment of request ids.

use http::HeaderValue;

use super::request_id::{RequestId, RequestIdKind, UUID_BYTES};

/// The maximum length of an inbound request id.
const INBOUND_BYTES_MAX: usize = 128;

impl RequestId {
    /// Creates an id from a UUID in text form.
    pub(crate) fn own(uuid: [u8; UUID_BYTES]) -> Self {
        debug_assert!(uuid.is_ascii());
        Self(RequestIdKind::Own(uuid))
    }

    /// Returns an inbound id if it consists of 1 to 128 characters from `A-Z a-z 0-9 . _ -`.
    ///
    /// A rejected value does not appear in the record.
    pub(crate) fn accept(value: &HeaderValue) -> Option<Self> {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
        let valid = (1..=INBOUND_BYTES_MAX).contains(&value.len())
            && value.as_bytes().iter().all(plain)
            && !value.is_sensitive();
        valid.then(|| Self(RequestIdKind::Inbound(value.clone())))
    }

    /// Returns the id as ASCII bytes.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            RequestIdKind::Own(text) => text,
            RequestIdKind::Inbound(value) => value.as_bytes(),
        }
    }

    /// Returns the id as a header value.
    pub(crate) fn header_value(&self) -> HeaderValue {
        match &self.0 {
            RequestIdKind::Own(text) => {
                HeaderValue::from_bytes(text).expect("a UUID is a header value")
            }
            RequestIdKind::Inbound(value) => value.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_of_bounded_length_are_accepted() {
        let accept = |bytes: &[u8]| RequestId::accept(&HeaderValue::from_bytes(bytes).unwrap());
        assert_eq!(accept(b"Az09._-").unwrap().as_str(), "Az09._-");
        assert!(accept(&[b'a'; 128]).is_some());
        for refused in [&b""[..], b"a b", b"a\"b", b"a/b", b"\xff", &[b'a'; 129]] {
            assert!(accept(refused).is_none(), "{refused:?}");
        }
    }
}
