//! A record as bytes: what a store on a server keeps.

use std::{collections::BTreeMap, str};

use super::{
    constraints::Constraints,
    record::{KeyRecord, KeyState, StateChange},
};
use crate::{
    api_key::{
        key::{
            digest::{DigestAlgorithm, ForeignAlgorithm, KeyDigest, RecordSeal},
            format::KeyId,
        },
        manage::authority::SetByOwner,
    },
    core::{
        allowance::Allowance,
        error::{StoreError, StoreErrorKind},
        time::Timestamp,
    },
};

/// The first byte. Bytes of another layout are never misread: they are corrupt.
const SCHEMA: u8 = 1;
/// The same, followed by the fields that an administrator of the owner set. It is written only where
/// there are any, so that records of before stay as they are.
const SCHEMA_SET_BY_OWNER: u8 = 2;

impl KeyRecord {
    /// The most bytes that a record has. The bounds of a `NewKey` keep far below it.
    pub const BYTES_MAX: usize = 16 * 1024;

    /// Returns the record as bytes, for a store that keeps bytes.
    ///
    /// They hold no secret, but whoever can change them can change scopes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer(self.body_bytes());
        out.optional(self.seal.as_ref(), |out, seal| {
            out.0.extend_from_slice(&seal.pepper_id.to_le_bytes());
            out.0.extend_from_slice(seal.digest.as_bytes());
        });
        out.0
    }

    /// Returns all that a seal is for: everything but itself.
    pub(crate) fn body_bytes(&self) -> Vec<u8> {
        let mut out = Writer(Vec::with_capacity(256));
        let set_by_owner = self.set_by_owner.bits();
        out.byte(match set_by_owner {
            0 => SCHEMA,
            _ => SCHEMA_SET_BY_OWNER,
        });
        out.text(self.id.as_str());
        out.text(&self.prefix);
        out.text(&self.environment);
        out.number(self.version);
        out.0.extend_from_slice(self.digest.as_bytes());
        out.algorithm(self.algorithm);
        out.text(&self.owner);
        out.text(self.lineage.as_str());
        out.optional(self.name.as_deref(), Writer::text);
        out.optional(self.tier.as_deref(), Writer::text);
        out.list(self.scopes.iter(), |out, scope| out.text(scope));
        out.state(&self.state);
        out.time(self.created_at);
        for time in [self.not_before, self.expires_at, self.grace_until] {
            out.optional(time, Writer::time);
        }
        for id in [self.rotated_from, self.rotated_to] {
            out.optional(id, |out, id| out.text(id.as_str()));
        }
        out.list(self.metadata.iter(), |out, (name, value)| {
            out.text(name);
            out.text(value);
        });
        out.constraints(&self.constraints);
        for allowance in [self.credits, self.limit] {
            out.optional(allowance, |out, own| out.text(&own.to_string()));
        }
        out.optional(self.slow_hash.as_deref(), Writer::text);
        out.optional(self.rotated_at, Writer::time);
        if set_by_owner != 0 {
            out.byte(set_by_owner);
        }
        out.0
    }

    /// Reads what [`KeyRecord::to_bytes`] wrote.
    ///
    /// # Errors
    ///
    /// With [`StoreErrorKind::Corrupt`] if it did not write this.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StoreError> {
        let corrupt = || StoreError::new(StoreErrorKind::Corrupt);
        if bytes.len() > Self::BYTES_MAX {
            return Err(corrupt());
        }
        let mut reader = RecordReader(bytes);
        let record = reader.record().ok_or_else(corrupt)?;
        if reader.0.is_empty() {
            Ok(record)
        } else {
            Err(corrupt())
        }
    }
}

/// Writes fields one behind the other, each of variable length behind its length.
struct Writer(Vec<u8>);

impl Writer {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    fn number(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn len(&mut self, len: usize) {
        let len = u32::try_from(len).expect("a record's fields are bounded");
        self.0.extend_from_slice(&len.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.len(text.len());
        self.0.extend_from_slice(text.as_bytes());
    }

    fn time(&mut self, time: Timestamp) {
        self.number(time.as_micros());
    }

    fn optional<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.byte(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }

    fn list<T>(
        &mut self,
        values: impl ExactSizeIterator<Item = T>,
        mut write: impl FnMut(&mut Self, T),
    ) {
        self.len(values.len());
        for value in values {
            write(self, value);
        }
    }

    fn algorithm(&mut self, algorithm: DigestAlgorithm) {
        match algorithm {
            DigestAlgorithm::HmacSha256 { pepper_id } => {
                self.byte(1);
                self.0.extend_from_slice(&pepper_id.to_le_bytes());
            }
            DigestAlgorithm::Sha256 => self.byte(2),
            DigestAlgorithm::Foreign { hash, pepper_id } => {
                self.byte(3);
                self.byte(match hash {
                    ForeignAlgorithm::Sha256 => 1,
                    ForeignAlgorithm::Sha512 => 2,
                    ForeignAlgorithm::Argon2 => 3,
                });
                self.optional(pepper_id, |out, id| {
                    out.0.extend_from_slice(&id.to_le_bytes());
                });
            }
        }
    }

    fn constraints(&mut self, constraints: &Constraints) {
        self.list(constraints.networks.iter(), |out, network| {
            out.text(&network.to_string());
        });
        self.list(constraints.methods.iter(), |out, method| {
            out.text(method.as_str());
        });
        self.list(constraints.origins.iter(), |out, origin| out.text(origin));
    }

    fn state(&mut self, state: &KeyState) {
        let (tag, change) = match state {
            KeyState::Active => return self.byte(0),
            KeyState::Disabled(change) => (1, change),
            KeyState::Revoked(change) => (2, change),
        };
        self.byte(tag);
        self.time(change.at);
        self.optional(change.by.as_deref(), Self::text);
        self.optional(change.reason.as_deref(), Self::text);
    }
}

/// Reads fields from the front. `None` means that they are not what was written.
struct RecordReader<'a>(&'a [u8]);

impl RecordReader<'_> {
    fn record(&mut self) -> Option<KeyRecord> {
        let has_set_by_owner = match self.byte()? {
            SCHEMA => false,
            SCHEMA_SET_BY_OWNER => true,
            _ => return None,
        };
        Some(KeyRecord {
            id: self.id()?,
            prefix: self.text()?,
            environment: self.text()?,
            version: self.number()?,
            digest: KeyDigest::from_bytes(self.array()?),
            algorithm: self.algorithm()?,
            owner: self.text()?,
            lineage: self.id()?,
            name: self.optional(Self::text)?,
            tier: self.optional(Self::text)?,
            scopes: self.scopes()?,
            state: self.state()?,
            created_at: self.time()?,
            not_before: self.optional(Self::time)?,
            expires_at: self.optional(Self::time)?,
            grace_until: self.optional(Self::time)?,
            rotated_from: self.optional(Self::id)?,
            rotated_to: self.optional(Self::id)?,
            metadata: self.metadata()?,
            constraints: self.constraints()?,
            credits: self.optional(Self::allowance)?,
            limit: self.optional(Self::allowance)?,
            slow_hash: self.optional(Self::text)?,
            rotated_at: self.optional(Self::time)?,
            set_by_owner: match has_set_by_owner {
                true => self.set_by_owner()?,
                false => SetByOwner::default(),
            },
            seal: self.optional(Self::seal)?,
        })
    }

    /// Reads a set that is not empty: each record has one spelling.
    fn set_by_owner(&mut self) -> Option<SetByOwner> {
        SetByOwner::from_bits(self.byte()?).filter(|set| set.bits() != 0)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn len(&mut self) -> Option<usize> {
        usize::try_from(u32::from_le_bytes(self.array()?)).ok()
    }

    fn text(&mut self) -> Option<String> {
        let len = self.len()?;
        let (text, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        str::from_utf8(text).ok().map(str::to_owned)
    }

    fn id(&mut self) -> Option<KeyId> {
        self.text()?.parse().ok()
    }

    fn time(&mut self) -> Option<Timestamp> {
        self.number().map(Timestamp::from_micros)
    }

    fn optional<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.byte()? {
            0 => Some(None),
            1 => read(self).map(Some),
            _ => None,
        }
    }

    fn algorithm(&mut self) -> Option<DigestAlgorithm> {
        match self.byte()? {
            1 => Some(DigestAlgorithm::HmacSha256 {
                pepper_id: u16::from_le_bytes(self.array()?),
            }),
            2 => Some(DigestAlgorithm::Sha256),
            3 => Some(DigestAlgorithm::Foreign {
                hash: match self.byte()? {
                    1 => ForeignAlgorithm::Sha256,
                    2 => ForeignAlgorithm::Sha512,
                    3 => ForeignAlgorithm::Argon2,
                    _ => return None,
                },
                pepper_id: self.optional(|own| own.array().map(u16::from_le_bytes))?,
            }),
            _ => None,
        }
    }

    /// Identities search scopes by halves: a list out of order would hide some of them.
    fn scopes(&mut self) -> Option<Vec<String>> {
        let mut scopes: Vec<String> = Vec::new();
        for _ in 0..self.len()? {
            let scope = self.text()?;
            if scopes.last().is_some_and(|last| *last >= scope) {
                return None;
            }
            scopes.push(scope);
        }
        Some(scopes)
    }

    fn metadata(&mut self) -> Option<BTreeMap<String, String>> {
        let mut metadata = BTreeMap::new();
        for _ in 0..self.len()? {
            metadata.insert(self.text()?, self.text()?);
        }
        Some(metadata)
    }

    fn seal(&mut self) -> Option<RecordSeal> {
        Some(RecordSeal {
            pepper_id: u16::from_le_bytes(self.array()?),
            digest: KeyDigest::from_bytes(self.array()?),
        })
    }

    fn allowance(&mut self) -> Option<Allowance> {
        self.text()?.parse().ok()
    }

    fn constraints(&mut self) -> Option<Constraints> {
        Some(Constraints {
            networks: self.list(|reader| reader.text()?.parse().ok())?,
            methods: self.list(|reader| reader.text()?.parse().ok())?,
            origins: self.list(Self::text)?,
        })
    }

    fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        // Grown as it is read: a length that lies costs nothing.
        let mut values = Vec::new();
        for _ in 0..self.len()? {
            values.push(read(self)?);
        }
        Some(values)
    }

    fn state(&mut self) -> Option<KeyState> {
        let tag = self.byte()?;
        if tag == 0 {
            return Some(KeyState::Active);
        }
        let change = StateChange {
            at: self.time()?,
            by: self.optional(Self::text)?,
            reason: self.optional(Self::text)?,
        };
        match tag {
            1 => Some(KeyState::Disabled(change)),
            2 => Some(KeyState::Revoked(change)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api_key::record::record::tests::record;

    fn full() -> KeyRecord {
        let mut record = record();
        let at = record.created_at;
        record.name = Some("grüße".to_owned());
        record.not_before = Some(at);
        record.expires_at = Some(at);
        record.grace_until = Some(at);
        record.rotated_at = Some(at);
        record.rotated_from = Some(record.id);
        record.rotated_to = Some(record.id);
        record.seal = Some(RecordSeal {
            pepper_id: 3,
            digest: KeyDigest::from_bytes([9; 32]),
        });
        record.credits = Some(Allowance::per_month(50_000).unwrap());
        record.limit = Some("20/90s".parse().unwrap());
        record.slow_hash = Some("$argon2id$".to_owned());
        record.algorithm = DigestAlgorithm::Foreign {
            hash: ForeignAlgorithm::Argon2,
            pepper_id: Some(7),
        };
        record.metadata.insert("a".to_owned(), "b".to_owned());
        record.set_by_owner = SetByOwner::from_bits(9).unwrap();
        record.constraints = Constraints::new()
            .networks(["10.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()])
            .methods([http::Method::GET])
            .origins(["https://app.example"]);
        record.state = KeyState::Disabled(StateChange {
            at,
            by: Some("alice".to_owned()),
            reason: None,
        });
        record
    }

    fn again(record: &KeyRecord) -> Vec<u8> {
        KeyRecord::from_bytes(&record.to_bytes())
            .unwrap()
            .to_bytes()
    }

    #[test]
    fn what_was_written_is_read() {
        for record in [record(), full()] {
            assert_eq!(again(&record), record.to_bytes());
        }
        let read = KeyRecord::from_bytes(&full().to_bytes()).unwrap();
        assert_eq!(read.state(), full().state());
        assert_eq!(read.metadata(), full().metadata());
        assert_eq!(read.constraints(), full().constraints());
        assert_eq!(read.credits(), full().credits());
        assert_eq!(read.limit(), full().limit());
        assert_eq!(read.expires_at(), full().expires_at());
    }

    #[test]
    fn cut_extended_and_foreign_bytes_are_corrupt() {
        let bytes = full().to_bytes();
        for len in 0..bytes.len() {
            assert!(
                KeyRecord::from_bytes(&bytes[..len]).is_err(),
                "cut to {len}"
            );
        }
        assert!(KeyRecord::from_bytes(&[&bytes[..], b"x"].concat()).is_err());
        let mut other_schema = bytes;
        other_schema[0] = 3;
        let error = KeyRecord::from_bytes(&other_schema).unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Corrupt);
    }

    #[test]
    fn a_length_beyond_the_bytes_is_corrupt_and_costs_no_memory() {
        let mut bytes = record().to_bytes();
        bytes[1..5].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(KeyRecord::from_bytes(&bytes).is_err());
        assert!(KeyRecord::from_bytes(&vec![1; KeyRecord::BYTES_MAX + 1]).is_err());
    }

    #[test]
    fn scopes_out_of_order_are_corrupt() {
        let mut record = record();
        record.scopes.reverse();
        assert!(KeyRecord::from_bytes(&record.to_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = KeyRecord::from_bytes(&bytes);
        }

        #[test]
        fn a_changed_byte_is_read_without_a_panic(at in 0..200_usize, by in 1..=255_u8) {
            let mut bytes = full().to_bytes();
            let at = at % bytes.len();
            bytes[at] ^= by;
            let _ = KeyRecord::from_bytes(&bytes);
        }
    }
}
