//! Stored responses.

use std::{fmt, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{self, AGE},
};

use super::header_set;
use crate::{
    cache::http::{
        cache_status::CACHE_STATUS,
        freshness::Freshness,
        vary::{Selection, VariantId, VarySpec},
    },
    core::{
        error::{StoreError, StoreErrorKind},
        store_api::store_key::StoreKey,
    },
};

/// The size of an entry in addition to its bytes: its struct, reference counts, and its slot in the
/// index of a store.
const OVERHEAD_BYTES: usize = 640;
/// The size of a field in a header map, in addition to its bytes.
const FIELD_BYTES: usize = 160;

/// A stored response: status, header fields, body, and cache metadata.
///
/// A stored response is immutable. An in-memory store holds it unchanged. A server-based store
/// stores [`StoredResponse::encode_head`] and [`StoredResponse::body`] separately, or both as one
/// value ([`StoredResponse::to_bytes`]).
#[derive(Clone)]
// Fields that a hit reads are first, so that they share cache lines.
#[repr(C)]
pub struct StoredResponse {
    pub(crate) freshness: Freshness,
    pub(crate) vary: VarySpec,
    // Boxed: few entries have a seal, and each hit checks for one.
    pub(crate) seal: Option<Box<Seal>>,
    pub(crate) status: StatusCode,
    /// `true` if the response itself permits sharing among callers.
    pub(crate) says_shared: bool,
    /// The length of the plain body, if the body is compressed. The fields are those of the plain
    /// body.
    pub(crate) packed: Option<u32>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) variant: VariantId,
    pub(crate) partition: StoreKey,
    pub(crate) tags: Vec<StoreKey>,
}

/// The state of an entry whose serialized form a store wrapper transforms, for example by
/// encryption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seal {
    /// Only the transformed body and these bytes are available. The cache never serves such an
    /// entry.
    Sealed { head: Bytes },
    /// The entry is readable; this is its transformed body in the store.
    Opened { body: Bytes },
}

impl StoredResponse {
    /// Returns the body as stored, which may be compressed.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Returns the length of the body, decompressed.
    pub(crate) fn plain_bytes(&self) -> u64 {
        self.packed.map_or(self.body.len() as u64, u64::from)
    }

    /// Returns the request fields that the response varies by.
    pub fn vary(&self) -> &VarySpec {
        &self.vary
    }

    /// Returns the variant of this response.
    pub fn variant(&self) -> VariantId {
        self.variant
    }

    /// Returns the purge key of the caller's partition.
    pub fn partition(&self) -> &StoreKey {
        &self.partition
    }

    /// Returns the purge keys of the tags.
    pub fn tags(&self) -> &[StoreKey] {
        &self.tags
    }

    /// Returns the memory size of the entry in bytes, including headers and overhead.
    pub fn weight_bytes(&self) -> usize {
        let fields: usize = self
            .headers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + FIELD_BYTES)
            .sum();
        let keys = self.tags.len() * size_of::<StoreKey>();
        let sealed = self.sealed_head().map_or(0, Bytes::len);
        OVERHEAD_BYTES + fields + keys + sealed + self.body.len()
    }

    /// Returns a sealed entry for an inner store. A store that transforms the bytes, for example by
    /// encryption, passes the sealed entry to its inner store in place of this entry.
    ///
    /// `head` replaces [`StoredResponse::encode_head`], and `body` replaces the body. In addition,
    /// the inner store receives the data that it needs: the variant, the names of the fields that
    /// select it, and the digests of the partition and the tags. The cache never serves a sealed
    /// entry.
    #[must_use]
    pub fn seal(&self, head: Bytes, body: Bytes) -> Self {
        Self {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body,
            freshness: Freshness::default(),
            vary: self.vary.clone(),
            variant: self.variant,
            partition: self.partition,
            says_shared: false,
            tags: self.tags.clone(),
            packed: None,
            seal: Some(Box::new(Seal::Sealed { head })),
        }
    }

    /// Returns the head with which this entry was sealed, or `None` if the entry is not sealed.
    pub fn sealed_head(&self) -> Option<&Bytes> {
        match self.seal.as_deref() {
            Some(Seal::Sealed { head }) => Some(head),
            Some(Seal::Opened { .. }) | None => None,
        }
    }

    /// Returns the transformed body that is in the store, if this entry was [opened](Self::open).
    ///
    /// A head that replaces the current head is stored with that body:
    /// [`CacheStore::touch`](crate::cache::CacheStore::touch) leaves the body unchanged.
    pub fn sealed_body(&self) -> Option<&Bytes> {
        match self.seal.as_deref() {
            Some(Seal::Opened { body }) => Some(body),
            Some(Seal::Sealed { .. }) | None => None,
        }
    }

    /// Returns the original entry from which this entry was sealed, given the head and the body
    /// that the original had before [`StoredResponse::seal`].
    ///
    /// # Errors
    ///
    /// Returns [`StoreErrorKind::Corrupt`](crate::StoreErrorKind::Corrupt) if this version did not
    /// write the head and the body, or if the variant, the partition or the tags differ from those
    /// of this entry.
    pub fn open(&self, head: Bytes, body: Bytes) -> Result<Self, StoreError> {
        let opened = Self::decode(head, body)?;
        let outside = (self.variant, &self.vary, self.partition, &self.tags);
        let inside = (opened.variant, &opened.vary, opened.partition, &opened.tags);
        if outside != inside || opened.sealed_head().is_some() {
            return Err(StoreErrorKind::Corrupt.into());
        }
        let body = self.body.clone();
        Ok(Self {
            seal: Some(Box::new(Seal::Opened { body })),
            ..opened
        })
    }
}

impl fmt::Debug for StoredResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither fields nor body: they can be private to a caller.
        f.debug_struct("StoredResponse")
            .field("status", &self.status)
            .field("bytes", &self.body.len())
            .field("freshness", &self.freshness)
            .field("vary", &self.vary)
            .finish_non_exhaustive()
    }
}

/// Returns `true` if an entry matches a request by the fields that it varies by. A sealed entry
/// matches none.
pub(crate) fn fits(selection: &Selection<'_>, entry: &StoredResponse) -> bool {
    entry.sealed_head().is_none()
        && (entry.vary.is_empty() || selection.variant(&entry.vary) == entry.variant)
}

/// Copies fields into one exact allocation, instead of sharing the larger buffers of the
/// connection. Common values need no allocation.
pub(crate) fn compact(headers: &HeaderMap) -> HeaderMap {
    compact_with(headers, &[]).0
}

/// Copies fields and a body into one allocation, so that a hit updates a single reference count.
pub(crate) fn compact_with(headers: &HeaderMap, body: &[Bytes]) -> (HeaderMap, Bytes) {
    let pieces = || {
        let values = headers.values().map(HeaderValue::as_bytes);
        values.chain(body.iter().map(|piece| &**piece))
    };
    let mut bytes = Vec::with_capacity(pieces().map(<[u8]>::len).sum());
    pieces().for_each(|piece| bytes.extend_from_slice(piece));
    let bytes = Bytes::from(bytes);
    let mut compact = HeaderMap::with_capacity(headers.len());
    // Fields that each hit rewrites are first, where they are found fastest.
    let is_place = |name: &HeaderName, value: &HeaderValue| {
        *name == AGE || (*name == CACHE_STATUS && value.is_empty())
    };
    for name in [AGE, CACHE_STATUS] {
        if headers
            .get(&name)
            .is_some_and(|value| is_place(&name, value))
        {
            compact.insert(name, HeaderValue::from_static(""));
        }
    }
    let mut from = 0;
    for (name, value) in headers {
        let to = from + value.len();
        if !is_place(name, value) {
            let mut copy = header_set::of(value).unwrap_or_else(|| {
                HeaderValue::from_maybe_shared(bytes.slice(from..to))
                    .expect("the bytes are those of a header value")
            });
            copy.set_sensitive(value.is_sensitive());
            compact.append(name.clone(), copy);
        }
        from = to;
    }
    (compact, bytes.slice(from..))
}

/// Fields of one connection or one exchange, which are never stored.
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

/// Removes the fields that are never stored, and those that `Connection` lists.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    for name in listed {
        headers.remove(name);
    }
    // Usually there are none, which a scan of the present names detects.
    let never_kept = |name: &&HeaderName| NEVER_KEPT.contains(&name.as_str());
    let there: Vec<_> = headers.keys().filter(never_kept).cloned().collect();
    for name in there {
        headers.remove(name);
    }
}

/// Returns the time for which a store retains an entry.
pub(crate) fn retain(
    freshness: &Freshness,
    has_validator: bool,
    retain_stale_for: Duration,
) -> Duration {
    freshness.retain(if has_validator {
        retain_stale_for
    } else {
        Duration::ZERO
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::http::vary::Variants;
    use crate::core::{store_api::store_key::StoreKeys, time::Timestamp};

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
            packed: None,
            seal: None,
        }
    }

    #[test]
    fn a_compact_copy_is_equal_and_shares_nothing_larger() {
        let mut headers = entry().headers;
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        assert_eq!(compact(&headers), headers);
    }

    #[test]
    fn compaction_preserves_fields_and_body() {
        let headers = entry().headers;
        let pieces = [Bytes::from_static(b"bo"), Bytes::from_static(b"dy")];
        let (copy, body) = compact_with(&headers, &pieces);
        assert_eq!((copy, &*body), (headers, &b"body"[..]));
        assert_eq!(Vec::from(body), b"body");
        assert!(compact_with(&HeaderMap::new(), &[]).1.is_empty());
    }

    #[test]
    fn fields_that_each_hit_rewrites_are_first() {
        let mut headers = entry().headers;
        headers.insert(AGE, HeaderValue::from_static("7"));
        headers.insert(CACHE_STATUS, HeaderValue::from_static(""));
        let compact = compact(&headers);
        let first: Vec<_> = compact.iter().take(2).collect();
        let empty = HeaderValue::from_static("");
        assert_eq!(first, [(&AGE, &empty), (&CACHE_STATUS, &empty)]);
        assert_eq!(compact.len(), headers.len());

        // The value of another cache is not our placeholder.
        headers.insert(CACHE_STATUS, HeaderValue::from_static("far; hit"));
        assert_eq!(super::compact(&headers)[CACHE_STATUS], "far; hit");
    }

    #[test]
    fn removes_hop_by_hop_fields() {
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

    #[test]
    fn sealed_entry_opens_only_to_its_content() {
        let entry = entry();
        let head = Bytes::from(entry.encode_head().unwrap());
        let sealed = entry.seal(Bytes::from_static(b"h"), Bytes::from_static(b"b"));
        assert_eq!(
            (&sealed.headers, sealed.tags()),
            (&HeaderMap::new(), entry.tags())
        );
        assert_eq!(sealed.sealed_head().unwrap(), "h");

        let opened = sealed.open(head.clone(), entry.body.clone()).unwrap();
        assert_eq!(
            (&opened.headers, &opened.body),
            (&entry.headers, &entry.body)
        );
        assert_eq!(opened.sealed_body().unwrap(), "b");

        let other_variant = StoredResponse {
            variant: VariantId::from_bytes([9; 16]),
            ..sealed.clone()
        };
        let other_caller = StoredResponse {
            partition: StoreKey::from_bytes([9; 16]),
            ..sealed.clone()
        };
        let untagged = StoredResponse {
            tags: Vec::new(),
            ..sealed.clone()
        };
        for moved in [other_variant, other_caller, untagged] {
            assert!(moved.open(head.clone(), entry.body.clone()).is_err());
        }
        let twice = Bytes::from(sealed.encode_head().unwrap());
        assert!(sealed.open(twice, sealed.body.clone()).is_err());
    }

    #[test]
    fn sealed_entry_is_never_served() {
        let keys = StoreKeys::from_secret(&[1; 32]).unwrap();
        let variants = Variants::new(keys.space("v"), false);
        let headers = HeaderMap::new();
        let selection = Selection::new(&headers, &variants);
        let plain = StoredResponse {
            vary: VarySpec::default(),
            ..entry()
        };
        assert!(fits(&selection, &plain));
        assert!(!fits(&selection, &plain.seal(Bytes::new(), Bytes::new())));
    }
}
