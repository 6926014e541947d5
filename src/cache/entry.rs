//! A stored answer: what is kept of a response, frozen.

use std::{fmt, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::{
    freshness::Freshness,
    vary::{Selection, VariantId, VarySpec},
};
use crate::{
    error::{StoreError, StoreErrorKind},
    store_key::StoreKey,
    time::Timestamp,
};

/// What an entry weighs beside its bytes: its own struct, reference counts, and its place in a
/// store's index.
const OVERHEAD_BYTES: usize = 640;
/// What a field weighs in a map of fields, beside its bytes.
const FIELD_BYTES: usize = 160;
/// The most fields that a head may have when it is read back from a store.
const FIELDS_MAX: usize = 512;
/// The version of the form in which a head is written.
const FORM: u8 = 1;

/// A stored answer: status, header fields, body, and what the cache knows of them.
///
/// It does not change once it is stored. A store in memory keeps it as it is; one on a server
/// keeps [`StoredResponse::encode_head`] and [`StoredResponse::body`].
#[derive(Clone)]
pub struct StoredResponse {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) freshness: Freshness,
    pub(super) vary: VarySpec,
    pub(super) variant: VariantId,
    pub(super) partition: StoreKey,
    /// Whether the answer itself says that it may be shared among callers.
    pub(super) says_shared: bool,
    pub(super) tags: Vec<StoreKey>,
}

impl StoredResponse {
    /// Returns the answer's body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Returns what the answer varies by.
    pub fn vary(&self) -> &VarySpec {
        &self.vary
    }

    /// Returns which one of its URL's answers this is.
    pub fn variant(&self) -> VariantId {
        self.variant
    }

    /// Returns the key by which all that its caller got is purged.
    pub fn partition(&self) -> &StoreKey {
        &self.partition
    }

    /// Returns the keys of the tags by which it is purged.
    pub fn tags(&self) -> &[StoreKey] {
        &self.tags
    }

    /// Returns how many bytes of memory the answer takes, headers and bookkeeping included.
    pub fn weight_bytes(&self) -> usize {
        let fields: usize = self
            .headers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + FIELD_BYTES)
            .sum();
        let keys = self.tags.len() * size_of::<StoreKey>();
        OVERHEAD_BYTES + fields + keys + self.body.len()
    }

    /// Writes all but the body, for a store on a server.
    pub fn encode_head(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.push(FORM);
        out.extend_from_slice(&self.status.as_u16().to_le_bytes());
        out.extend_from_slice(&self.freshness.received_at.as_micros().to_le_bytes());
        for secs in [
            self.freshness.initial_age_secs,
            self.freshness.lifetime_secs,
            self.freshness.while_revalidate_secs,
            self.freshness.if_error_secs,
        ] {
            out.extend_from_slice(&secs.to_le_bytes());
        }
        out.push(u8::from(self.freshness.always_validate));
        out.push(u8::from(self.freshness.never_stale));
        out.push(u8::from(self.says_shared));
        out.extend_from_slice(self.variant.as_bytes());
        out.extend_from_slice(self.partition.as_bytes());
        push_len(&mut out, self.tags.len());
        for tag in &self.tags {
            out.extend_from_slice(tag.as_bytes());
        }
        push_len(&mut out, self.vary.names().len());
        for name in self.vary.names() {
            push_bytes(&mut out, name.as_str().as_bytes());
        }
        push_len(&mut out, self.headers.len());
        for (name, value) in &self.headers {
            push_bytes(&mut out, name.as_str().as_bytes());
            push_bytes(&mut out, value.as_bytes());
        }
        out
    }

    /// Reads what [`StoredResponse::encode_head`] wrote, and adds the body.
    ///
    /// # Errors
    ///
    /// [`StoreErrorKind::Corrupt`] if the bytes are not what this version wrote.
    pub fn decode(head: &[u8], body: Bytes) -> Result<Self, StoreError> {
        decode(head, body).ok_or_else(|| StoreErrorKind::Corrupt.into())
    }
}

impl fmt::Debug for StoredResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither fields nor body: they are one caller's.
        f.debug_struct("StoredResponse")
            .field("status", &self.status)
            .field("bytes", &self.body.len())
            .field("freshness", &self.freshness)
            .field("vary", &self.vary)
            .finish_non_exhaustive()
    }
}

/// Returns whether an answer fits a request, by the fields that it varies by.
pub(super) fn fits(selection: &Selection<'_>, entry: &StoredResponse) -> bool {
    entry.vary.is_empty() || selection.variant(&entry.vary) == entry.variant
}

/// Copies fields so that they share one exact piece of memory of their own, and not that of the
/// connection's buffers, which are larger.
pub(super) fn compact(headers: &HeaderMap) -> HeaderMap {
    let len = headers.values().map(HeaderValue::len).sum();
    let mut bytes = Vec::with_capacity(len);
    for value in headers.values() {
        bytes.extend_from_slice(value.as_bytes());
    }
    let bytes = Bytes::from(bytes);
    let mut compact = HeaderMap::with_capacity(headers.len());
    let mut from = 0;
    for (name, value) in headers {
        let to = from + value.len();
        let mut copy = HeaderValue::from_maybe_shared(bytes.slice(from..to))
            .expect("the bytes are those of a header value");
        copy.set_sensitive(value.is_sensitive());
        compact.append(name.clone(), copy);
        from = to;
    }
    compact
}

/// Fields that are of one connection, or of one exchange, and never kept.
const NEVER_KEPT: [&str; 12] = [
    "age",
    "cache-status",
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Removes the fields that are never kept, and those that `Connection` lists.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    for name in listed {
        headers.remove(name);
    }
    for name in NEVER_KEPT {
        headers.remove(name);
    }
}

fn push_len(out: &mut Vec<u8>, len: usize) {
    let len = u32::try_from(len).expect("a head is far smaller than 4 GiB");
    out.extend_from_slice(&len.to_le_bytes());
}

fn push_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    push_len(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn decode(head: &[u8], body: Bytes) -> Option<StoredResponse> {
    let mut head = Reader(head);
    if head.u8()? != FORM {
        return None;
    }
    let status = StatusCode::from_u16(u16::from_le_bytes(head.array()?)).ok()?;
    let freshness = Freshness {
        received_at: Timestamp::from_micros(u64::from_le_bytes(head.array()?)),
        initial_age_secs: head.u32()?,
        lifetime_secs: head.u32()?,
        while_revalidate_secs: head.u32()?,
        if_error_secs: head.u32()?,
        always_validate: head.bool()?,
        never_stale: head.bool()?,
    };
    let says_shared = head.bool()?;
    let variant = VariantId::from_bytes(head.array()?);
    let partition = StoreKey::from_bytes(head.array()?);
    let tags = (0..head.len()?)
        .map(|_| Some(StoreKey::from_bytes(head.array()?)))
        .collect::<Option<_>>()?;
    let names = (0..head.len()?)
        .map(|_| HeaderName::from_bytes(head.bytes()?).ok())
        .collect::<Option<_>>()?;
    let vary = VarySpec::from_names(names)?;
    let fields = head.len()?;
    let mut headers = HeaderMap::with_capacity(fields);
    for _ in 0..fields {
        let name = HeaderName::from_bytes(head.bytes()?).ok()?;
        let value = HeaderValue::from_bytes(head.bytes()?).ok()?;
        headers.append(name, value);
    }
    head.0.is_empty().then_some(StoredResponse {
        status,
        headers,
        body,
        freshness,
        vary,
        variant,
        partition,
        says_shared,
        tags,
    })
}

/// Takes parts off the front of bytes that may be anybody's.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn bool(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// Takes a count, and refuses one that no cache writes before anything is reserved for it.
    fn len(&mut self) -> Option<usize> {
        let len = usize::try_from(self.u32()?).ok()?;
        (len <= FIELDS_MAX).then_some(len)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.u32()?).ok()?;
        self.take(len)
    }
}

/// Returns for how long a store keeps an answer.
pub(super) fn retain(
    freshness: &Freshness,
    has_validator: bool,
    validated_for: Duration,
) -> Duration {
    freshness.retain(if has_validator {
        validated_for
    } else {
        Duration::ZERO
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> StoredResponse {
        let mut headers = HeaderMap::new();
        headers.append("x-a", HeaderValue::from_static("1"));
        headers.append("x-a", HeaderValue::from_bytes(b"\xff").unwrap());
        headers.append("x-b", HeaderValue::from_static(""));
        StoredResponse {
            status: StatusCode::NOT_FOUND,
            headers,
            body: Bytes::from_static(b"body"),
            freshness: Freshness {
                received_at: Timestamp::from_secs(1),
                initial_age_secs: 2,
                lifetime_secs: 3,
                while_revalidate_secs: 4,
                if_error_secs: 5,
                always_validate: true,
                never_stale: false,
            },
            vary: VarySpec::from_names(vec![header::ACCEPT]).unwrap(),
            variant: VariantId::from_bytes([6; 16]),
            partition: StoreKey::from_bytes([7; 16]),
            says_shared: true,
            tags: vec![StoreKey::from_bytes([8; 16])],
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        let entry = entry();
        let read = StoredResponse::decode(&entry.encode_head(), entry.body.clone()).unwrap();
        assert_eq!(read.status, entry.status);
        assert_eq!(read.headers, entry.headers);
        assert_eq!(read.body, entry.body);
        assert_eq!(read.freshness, entry.freshness);
        assert_eq!(read.vary, entry.vary);
        assert_eq!(read.variant, entry.variant);
        assert_eq!((read.partition, read.tags), (entry.partition, entry.tags));
        assert_eq!(read.says_shared, entry.says_shared);
    }

    #[test]
    fn a_head_that_is_cut_or_longer_is_corrupt() {
        let head = entry().encode_head();
        for len in 0..head.len() {
            assert!(StoredResponse::decode(&head[..len], Bytes::new()).is_err());
        }
        let longer = [&head[..], b"x"].concat();
        let error = StoredResponse::decode(&longer, Bytes::new()).unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Corrupt);
    }

    #[test]
    fn a_compact_copy_is_equal_and_shares_nothing_larger() {
        let headers = entry().headers;
        assert_eq!(compact(&headers), headers);
    }

    #[test]
    fn the_connections_own_fields_are_not_kept() {
        let mut headers = HeaderMap::new();
        for name in ["connection", "x-hop", "x-end", "keep-alive", "age"] {
            headers.insert(name, HeaderValue::from_static("close, X-Hop"));
        }
        remove_hop_by_hop(&mut headers);
        assert_eq!(headers.keys().collect::<Vec<_>>(), ["x-end"]);
    }

    #[test]
    fn debug_shows_neither_fields_nor_body() {
        let debug = format!("{:?}", entry());
        assert!(!debug.contains("x-a") && !debug.contains("body"));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_decoding_panic(
            head in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
            at in proptest::num::usize::ANY,
            byte in proptest::num::u8::ANY,
        ) {
            let _ = StoredResponse::decode(&head, Bytes::new());
            let mut changed = entry().encode_head();
            let at = at % changed.len();
            changed[at] = byte;
            let _ = StoredResponse::decode(&changed, Bytes::new());
        }
    }
}
