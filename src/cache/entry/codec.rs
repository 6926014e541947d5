//! The serialized form of a stored response.
//!
//! Stored bytes are untrusted: they are rejected as corrupt unless this version could have written
//! exactly these bytes. All numbers are little-endian.
//!
//! ```text
//! head   form u8 | checksum of all that follows u64 | body length u32 | body checksum u64
//!        | variant [16] | partition [16] | tags u32, [16] each | vary u32, text each
//!        | kind u8: 0, and fields as below; or 1, and text: the sealed head
//! fields status u16 | received at u64, in microseconds | initial age, lifetime,
//!        stale-while-revalidate, stale-if-error u32, in seconds | flags u8
//!        | plain length u32, if it is compressed
//!        | fields u32: sensitive u8, text, text each
//! text   length u32 | bytes
//! whole  head length u32 | head | body
//! ```

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use siphasher::sip128::SipHasher13;

use super::entry::{Seal, StoredResponse};
use crate::{
    cache::{
        http::{
            freshness::Freshness,
            vary::{VariantId, VarySpec},
        },
        tags::TAGS_MAX,
    },
    core::{
        error::{StoreError, StoreErrorKind},
        store_api::{
            binary::{BinaryReader, BinaryWriter},
            store_key::StoreKey,
        },
        time::Timestamp,
    },
};

/// The version of the format.
pub(crate) const FORM: u8 = 1;
/// The maximum number of fields of a head.
const MAX_FIELDS: usize = 512;
/// The maximum size of a head.
const HEAD_BYTES_MAX: usize = 256 << 10;
/// The maximum size of a body.
const BODY_BYTES_MAX: usize = 1 << 30;

/// The bits of `always_validate`, `never_stale`, `says_shared` and a compressed body.
const FLAGS: [u8; 4] = [1, 2, 4, 8];

impl StoredResponse {
    /// Serializes everything except the body, for server-based stores, which can replace a head
    /// without its body ([`CacheStore::touch`](crate::cache::CacheStore::touch)).
    ///
    /// Returns `None` if the response exceeds the limits of [`decode`](Self::decode): 512 fields, a
    /// head of 256 KiB, and a body of 1 GiB. A store then returns
    /// [`PutOutcome::TooLarge`](crate::store::backend::PutOutcome::TooLarge).
    pub fn encode_head(&self) -> Option<Vec<u8>> {
        if self.body.len() > BODY_BYTES_MAX {
            return None;
        }
        let mut out = BinaryWriter::with_capacity(512);
        out.u8(FORM);
        out.u64(0);
        out.len(self.body.len());
        out.u64(checksum(&self.body));
        out.raw(self.variant.as_bytes());
        out.raw(self.partition.as_bytes());
        out.list(self.tags.iter(), |out, tag| out.raw(tag.as_bytes()));
        out.list(self.vary.names().iter(), |out, name| {
            out.bytes(name.as_str().as_bytes());
        });
        match self.sealed_head() {
            Some(head) => {
                out.u8(1);
                out.bytes(head);
            }
            None => {
                out.u8(0);
                self.encode_fields(&mut out);
            }
        }
        let mut out = out.into_bytes();
        let within = out.len() <= HEAD_BYTES_MAX
            && self.headers.len() <= MAX_FIELDS
            && self.tags.len() <= TAGS_MAX;
        let sum = checksum(&out[9..]).to_le_bytes();
        out[1..9].copy_from_slice(&sum);
        within.then_some(out)
    }

    fn encode_fields(&self, out: &mut BinaryWriter) {
        let freshness = &self.freshness;
        out.u16(self.status.as_u16());
        out.u64(freshness.received_at.as_micros());
        out.u32(freshness.initial_age_secs);
        out.u32(freshness.lifetime_secs);
        out.u32(freshness.while_revalidate_secs);
        out.u32(freshness.if_error_secs);
        let flags = [
            freshness.always_validate,
            freshness.never_stale,
            self.says_shared,
            self.packed.is_some(),
        ];
        let bits = FLAGS.iter().zip(flags);
        out.u8(bits.map(|(bit, set)| bit * u8::from(set)).sum());
        if let Some(plain) = self.packed {
            out.u32(plain);
        }
        out.len(self.headers.len());
        for (name, value) in &self.headers {
            out.u8(u8::from(value.is_sensitive()));
            out.bytes(name.as_str().as_bytes());
            out.bytes(value.as_bytes());
        }
    }

    /// Deserializes the output of [`StoredResponse::encode_head`], and adds the body. Neither the
    /// head nor the body is copied.
    ///
    /// # Errors
    ///
    /// Returns [`StoreErrorKind::Corrupt`] if this version did not write the bytes, or if the head
    /// belongs to another body. A store treats this as a miss rather than a failure: the next fill
    /// replaces the entry.
    pub fn decode(head: Bytes, body: Bytes) -> Result<Self, StoreError> {
        decode(head, body).ok_or_else(|| StoreErrorKind::Corrupt.into())
    }

    /// Serializes the whole response into a single value for a key-value store. Returns `None`
    /// under the conditions of [`StoredResponse::encode_head`].
    ///
    /// ```
    /// use bytes::Bytes;
    /// use portcullis::{StoreErrorKind, store::backend::StoredResponse};
    ///
    /// fn is_equal_after_a_round_trip(response: &StoredResponse) -> Option<bool> {
    ///     let again = StoredResponse::from_bytes(response.to_bytes()?).ok()?;
    ///     Some(again.body() == response.body())
    /// }
    ///
    /// let damaged = StoredResponse::from_bytes(Bytes::from_static(b"anything")).unwrap_err();
    /// assert_eq!(damaged.kind(), StoreErrorKind::Corrupt);
    /// ```
    pub fn to_bytes(&self) -> Option<Bytes> {
        let head = self.encode_head()?;
        let mut out = BinaryWriter::with_capacity(4 + head.len() + self.body.len());
        out.bytes(&head);
        out.raw(&self.body);
        Some(out.into_bytes().into())
    }

    /// Deserializes the output of [`StoredResponse::to_bytes`] without copying the body.
    ///
    /// # Errors
    ///
    /// Returns [`StoreErrorKind::Corrupt`] if this version did not write the bytes. A store treats
    /// this as a miss rather than a failure: the next fill replaces the entry.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, StoreError> {
        let mut whole = BinaryReader::new(bytes);
        let head = whole.bytes(HEAD_BYTES_MAX);
        let read = head.and_then(|head| decode(head, whole.into_rest()));
        read.ok_or_else(|| StoreErrorKind::Corrupt.into())
    }
}

impl VarySpec {
    /// Serializes the names of the fields, separated by commas.
    pub fn to_bytes(&self) -> Vec<u8> {
        let names: Vec<_> = self.names().iter().map(HeaderName::as_str).collect();
        names.join(",").into()
    }

    /// Deserializes the output of [`VarySpec::to_bytes`].
    ///
    /// # Errors
    ///
    /// Returns [`StoreErrorKind::Corrupt`] if the bytes are not the names of at most 8 fields.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StoreError> {
        let names = bytes
            .split(|byte| *byte == b',')
            .filter(|_| !bytes.is_empty())
            .map(|name| HeaderName::from_bytes(name).ok())
            .collect::<Option<Vec<_>>>();
        names
            .and_then(Self::from_names)
            .ok_or_else(|| StoreErrorKind::Corrupt.into())
    }
}

fn decode(head: Bytes, body: Bytes) -> Option<StoredResponse> {
    if head.len() > HEAD_BYTES_MAX {
        return None;
    }
    let mut head = BinaryReader::new(head);
    if head.u8()? != FORM || head.u64()? != checksum(head.rest()) {
        return None;
    }
    if head.len(BODY_BYTES_MAX)? != body.len() || head.u64()? != checksum(&body) {
        return None;
    }
    let variant = VariantId::from_bytes(head.array()?);
    let partition = StoreKey::from_bytes(head.array()?);
    let tags = head.list(TAGS_MAX, |head| head.array().map(StoreKey::from_bytes))?;
    let names = head.list(MAX_FIELDS, read_name)?;
    let vary = VarySpec::from_names(names)?;
    let outside = Outside {
        body,
        vary,
        variant,
        partition,
        tags,
    };
    let read = match head.u8()? {
        0 => decode_fields(&mut head, outside)?,
        1 => {
            let head = head.bytes(HEAD_BYTES_MAX)?;
            outside.with_head(Some(Seal::Sealed { head }))
        }
        _ => return None,
    };
    head.finish(read)
}

fn read_name(head: &mut BinaryReader<Bytes>) -> Option<HeaderName> {
    HeaderName::from_bytes(&head.bytes(HEAD_BYTES_MAX)?).ok()
}

fn decode_fields(head: &mut BinaryReader<Bytes>, outside: Outside) -> Option<StoredResponse> {
    let status = StatusCode::from_u16(head.u16()?).ok()?;
    let received_at = Timestamp::from_micros(head.u64()?);
    let secs = [head.u32()?, head.u32()?, head.u32()?, head.u32()?];
    let bits = head.u8()?;
    if bits & !FLAGS.iter().sum::<u8>() != 0 {
        return None;
    }
    let [always_validate, never_stale, says_shared, packed] = FLAGS.map(|flag| bits & flag != 0);
    let packed = match packed {
        true => Some(head.u32()?),
        false => None,
    };
    let fields = head.len(MAX_FIELDS)?;
    let mut headers = HeaderMap::with_capacity(fields);
    for _ in 0..fields {
        let sensitive = match head.u8()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        let name = read_name(head)?;
        let mut value = HeaderValue::from_maybe_shared(head.bytes(HEAD_BYTES_MAX)?).ok()?;
        value.set_sensitive(sensitive);
        headers.append(name, value);
    }
    let [
        initial_age_secs,
        lifetime_secs,
        while_revalidate_secs,
        if_error_secs,
    ] = secs;
    Some(StoredResponse {
        status,
        headers,
        freshness: Freshness {
            received_at,
            initial_age_secs,
            lifetime_secs,
            while_revalidate_secs,
            if_error_secs,
            always_validate,
            never_stale,
        },
        says_shared,
        packed,
        ..outside.with_head(None)
    })
}

/// The parts of a sealed entry that a store can read.
struct Outside {
    body: Bytes,
    vary: VarySpec,
    variant: VariantId,
    partition: StoreKey,
    tags: Vec<StoreKey>,
}

impl Outside {
    fn with_head(self, seal: Option<Seal>) -> StoredResponse {
        StoredResponse {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: self.body,
            freshness: Freshness::default(),
            vary: self.vary,
            variant: self.variant,
            partition: self.partition,
            says_shared: false,
            tags: self.tags,
            packed: None,
            seal: seal.map(Box::new),
        }
    }
}

/// The checksum detects damage, not tampering: anyone who can write to a store can compute it. The
/// feature `encryption` detects tampering.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    SipHasher13::new_with_key(b"portcullis-v1 ck")
        .hash(bytes)
        .h1
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*, sample::Index};

    use super::*;

    prop_compose! {
        fn freshness()(
            received_at in any::<u64>(),
            secs in any::<[u32; 4]>(),
            always_validate in any::<bool>(),
            never_stale in any::<bool>(),
        ) -> Freshness {
            Freshness {
                received_at: Timestamp::from_micros(received_at),
                initial_age_secs: secs[0],
                lifetime_secs: secs[1],
                while_revalidate_secs: secs[2],
                if_error_secs: secs[3],
                always_validate,
                never_stale,
            }
        }
    }

    prop_compose! {
        fn headers()(
            fields in vec(("[a-z][a-z-]{0,8}", vec(0x20_u8..0x7f, 0..20), any::<bool>()), 0..12),
        ) -> HeaderMap {
            let mut headers = HeaderMap::new();
            for (name, value, sensitive) in fields {
                let mut value = HeaderValue::from_bytes(&value).unwrap();
                value.set_sensitive(sensitive);
                headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
            }
            headers
        }
    }

    prop_compose! {
        fn responses()(
            status in 100_u16..1_000,
            headers in headers(),
            body in vec(any::<u8>(), 0..60),
            freshness in freshness(),
            names in vec("[a-z]{1,5}", 0..=8),
            ids in any::<[[u8; 16]; 2]>(),
            tags in vec(any::<[u8; 16]>(), 0..=TAGS_MAX),
            says_shared in any::<bool>(),
            packed in any::<Option<u32>>(),
            sealed in option::weighted(0.2, vec(any::<u8>(), 0..40)),
        ) -> StoredResponse {
            let names = names.iter().map(|name| HeaderName::from_bytes(name.as_bytes()).unwrap());
            let plain = StoredResponse {
                status: StatusCode::from_u16(status).unwrap(),
                headers,
                body: body.into(),
                freshness,
                vary: VarySpec::from_names(names.collect()).unwrap(),
                variant: VariantId::from_bytes(ids[0]),
                partition: StoreKey::from_bytes(ids[1]),
                says_shared,
                tags: tags.into_iter().map(StoreKey::from_bytes).collect(),
                packed,
                seal: None,
            };
            match sealed {
                None => plain,
                Some(head) => plain.seal(head.into(), Bytes::from_static(b"sealed")),
            }
        }
    }

    fn same(one: &StoredResponse, two: &StoredResponse) -> bool {
        let sensitive = |headers: &HeaderMap| -> Vec<bool> {
            headers.values().map(HeaderValue::is_sensitive).collect()
        };
        (one.status, &one.headers, &one.body) == (two.status, &two.headers, &two.body)
            && sensitive(&one.headers) == sensitive(&two.headers)
            && (one.freshness, &one.vary, one.variant) == (two.freshness, &two.vary, two.variant)
            && (one.partition, &one.tags) == (two.partition, &two.tags)
            && one.says_shared == two.says_shared
            && format!("{:?}", one.seal) == format!("{:?}", two.seal)
    }

    fn plain() -> StoredResponse {
        StoredResponse {
            status: StatusCode::NOT_FOUND,
            headers: HeaderMap::from_iter([(
                http::header::ETAG,
                HeaderValue::from_static("\"1\""),
            )]),
            body: Bytes::from_static(b"body"),
            freshness: Freshness::default(),
            vary: VarySpec::from_names(vec![http::header::ACCEPT]).unwrap(),
            variant: VariantId::from_bytes([6; 16]),
            partition: StoreKey::from_bytes([7; 16]),
            says_shared: true,
            tags: vec![StoreKey::from_bytes([8; 16])],
            packed: None,
            seal: None,
        }
    }

    proptest! {
        #[test]
        fn written_value_reads_back(response in responses()) {
            let head = response.encode_head().unwrap();
            let read = StoredResponse::decode(head.into(), response.body.clone()).unwrap();
            prop_assert!(same(&read, &response), "{read:?} is not {response:?}");
            let read = StoredResponse::from_bytes(response.to_bytes().unwrap()).unwrap();
            prop_assert!(same(&read, &response), "{read:?} is not {response:?}");
        }

        #[test]
        fn no_bytes_make_reading_panic(bytes in vec(any::<u8>(), 0..300)) {
            let bytes = Bytes::from(bytes);
            prop_assert!(StoredResponse::from_bytes(bytes.clone()).is_err());
            prop_assert!(StoredResponse::decode(bytes.clone(), bytes).is_err());
        }

        /// Inputs with a valid checksum, so that the parser behind it is tested.
        #[test]
        fn no_bytes_with_the_right_sums_make_reading_panic(
            mut response in responses(),
            changes in vec((any::<Index>(), any::<u8>()), 1..4),
            cut in any::<Index>(),
        ) {
            response.body = Bytes::new();
            let mut head = response.encode_head().unwrap();
            for (at, byte) in changes {
                let at = 9 + at.index(head.len() - 9);
                head[at] = byte;
            }
            head.truncate(9 + cut.index(head.len() - 9));
            let sum = checksum(&head[9..]).to_le_bytes();
            head[1..9].copy_from_slice(&sum);
            if let Ok(read) = StoredResponse::decode(head.into(), Bytes::new()) {
                // A response that was decoded can be encoded again.
                prop_assert!(read.encode_head().is_some());
            }
        }

        #[test]
        fn vary_spec_reads_back(names in vec("[a-z]{1,5}", 0..=8)) {
            let names = names.iter().map(|name| HeaderName::from_bytes(name.as_bytes()).unwrap());
            let spec = VarySpec::from_names(names.collect()).unwrap();
            prop_assert_eq!(VarySpec::from_bytes(&spec.to_bytes()).unwrap(), spec);
        }
    }

    const PLAIN: &[u8] = b"\
        \x87\x00\x00\x00\x01\xa9\xee\xdd\x10>M\xa9Z\x04\x00\x00\x00 \xaf\xc1\xa0\xb3\x815\n\x06\
        \x06\x06\x06\x06\x06\x06\x06\x06\x06\x06\x06\x06\x06\x06\x06\x07\x07\x07\x07\x07\x07\x07\
        \x07\x07\x07\x07\x07\x07\x07\x07\x07\x01\x00\x00\x00\x08\x08\x08\x08\x08\x08\x08\x08\x08\
        \x08\x08\x08\x08\x08\x08\x08\x01\x00\x00\x00\x06\x00\x00\x00accept\x00\x94\x01\x00\x00\
        \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\
        \x04\x01\x00\x00\x00\x00\x04\x00\x00\x00etag\x03\x00\x00\x00\"1\"body";

    const PACKED: &[u8] = b"\
        \x8b\x00\x00\x00\x01\xa7M\xc2\xbe`\x97\x96K\x04\x00\x00\x00 \xaf\xc1\xa0\xb3\x815\n\x06\
        \x06\x06\x06\x06\x06\x06\x06\x06\x06\x06\x06\x06\x06\x06\x06\x07\x07\x07\x07\x07\x07\x07\
        \x07\x07\x07\x07\x07\x07\x07\x07\x07\x01\x00\x00\x00\x08\x08\x08\x08\x08\x08\x08\x08\x08\
        \x08\x08\x08\x08\x08\x08\x08\x01\x00\x00\x00\x06\x00\x00\x00accept\x00\x94\x01\x88wfUD3\"\
        \x11\x01\x00\x00\x00\x02\x00\x00\x00\x03\x00\x00\x00\x04\x00\x00\x00\r\x04\x03\x02\x01\
        \x01\x00\x00\x00\x00\x04\x00\x00\x00etag\x03\x00\x00\x00\"1\"body";

    const SEALED: &[u8] = b"\
        `\x00\x00\x00\x01\xbc\x88\xc5\xa6\xa8\x80\x89\xa5\x06\x00\x00\x00Eg\x04\xe7\x95\xbb+\x80\
        \x06\x06\x06\x06\x06\x06\x06\x06\x06\x06\x06\x06\x06\x06\x06\x06\x07\x07\x07\x07\x07\x07\
        \x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x01\x00\x00\x00\x08\x08\x08\x08\x08\x08\x08\x08\
        \x08\x08\x08\x08\x08\x08\x08\x08\x01\x00\x00\x00\x06\x00\x00\x00accept\x01\x04\x00\x00\
        \x00headsealed";

    /// Processes of other versions read these bytes.
    #[test]
    fn written_bytes_never_change() {
        let mut packed = plain();
        packed.packed = Some(0x0102_0304);
        packed.freshness = Freshness {
            received_at: Timestamp::from_micros(0x1122_3344_5566_7788),
            initial_age_secs: 1,
            lifetime_secs: 2,
            while_revalidate_secs: 3,
            if_error_secs: 4,
            always_validate: true,
            never_stale: false,
        };
        let sealed = plain().seal(Bytes::from_static(b"head"), Bytes::from_static(b"sealed"));
        for (response, golden) in [(plain(), PLAIN), (packed, PACKED), (sealed, SEALED)] {
            assert_eq!(response.to_bytes().unwrap(), golden);
            let read = StoredResponse::from_bytes(golden.into()).unwrap();
            assert!(same(&read, &response));
        }
    }

    #[test]
    fn one_changed_byte_anywhere_is_found() {
        let whole = plain().to_bytes().unwrap();
        for at in 0..whole.len() {
            for change in [1, 0x80, 0xff] {
                let mut changed = whole.to_vec();
                changed[at] ^= change;
                let error = StoredResponse::from_bytes(changed.into()).unwrap_err();
                assert_eq!(error.kind(), StoreErrorKind::Corrupt, "at {at}");
            }
        }
    }

    #[test]
    fn truncated_or_extended_bytes_are_corrupt() {
        let whole = plain().to_bytes().unwrap();
        for len in 0..whole.len() {
            assert!(StoredResponse::from_bytes(whole.slice(..len)).is_err());
        }
        let longer = [&whole[..], b"x"].concat();
        assert!(StoredResponse::from_bytes(longer.into()).is_err());
    }

    #[test]
    fn a_head_with_another_ones_body_is_corrupt() {
        let head = Bytes::from(plain().encode_head().unwrap());
        assert!(StoredResponse::decode(head.clone(), Bytes::from_static(b"body")).is_ok());
        assert!(StoredResponse::decode(head, Bytes::from_static(b"ydob")).is_err());
    }

    #[test]
    fn unreadable_response_is_not_written() {
        let value = HeaderValue::from_bytes(&[b'x'; HEAD_BYTES_MAX]).unwrap();
        let mut long = plain();
        long.headers.insert("x-long", value);
        assert!(long.encode_head().is_none() && long.to_bytes().is_none());

        let mut many = plain();
        for _ in 0..MAX_FIELDS {
            many.headers.append("x-many", HeaderValue::from_static(""));
        }
        assert!(many.encode_head().is_none());

        let mut tagged = plain();
        tagged.tags = vec![StoreKey::from_bytes([0; 16]); TAGS_MAX + 1];
        assert!(tagged.encode_head().is_none());
    }

    #[test]
    fn names_that_are_none_are_no_spec() {
        assert!(VarySpec::from_bytes(b"").unwrap().is_empty());
        for names in [&b"a b"[..], b"a,", b",", b"a,b,c,d,e,f,g,h,i", b"\xff"] {
            assert!(VarySpec::from_bytes(names).is_err());
        }
    }
}
