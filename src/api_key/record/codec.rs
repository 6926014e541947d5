//! The serialization of records.

use std::str::{self, FromStr};

use super::{
    constraints::Constraints,
    record::{KeyRecord, KeyState, StateChange},
};
use crate::{
    api_key::{
        key::digest::{DigestAlgorithm, ImportedAlgorithm, KeyDigest, RecordSeal},
        manage::authority::SetByOwner,
    },
    core::{
        error::{StoreError, StoreErrorKind},
        store_api::binary::{BinaryReader, BinaryWriter},
        time::Timestamp,
    },
};

/// The first byte. Bytes of another schema are corrupt.
const SCHEMA: u8 = 1;
/// The schema of records in which an owner's administrator has set fields. Other records use the
/// first schema, so that their serialization is unchanged.
const SCHEMA_SET_BY_OWNER: u8 = 2;

/// The maximum number of values in a list: a record of the maximum size has no room for more.
const COUNT_MAX: usize = KeyRecord::MAX_BYTES / 4;

impl KeyRecord {
    /// The maximum size of a serialized record, in bytes. Records within the limits of `NewKey` are
    /// far smaller.
    pub const MAX_BYTES: usize = 16 * 1024;

    /// Serializes the record.
    ///
    /// The result contains no secret. Anyone who can write the stored bytes can change the key's
    /// scopes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.body();
        out.optional(self.seal.as_ref(), |out, seal| {
            out.u16(seal.pepper_id);
            out.raw(seal.digest.as_bytes());
        });
        out.into_bytes()
    }

    /// Serializes everything except the seal, which covers these bytes.
    pub(crate) fn body_bytes(&self) -> Vec<u8> {
        self.body().into_bytes()
    }

    fn body(&self) -> BinaryWriter {
        let mut out = BinaryWriter::with_capacity(256);
        let set_by_owner = self.set_by_owner.bits();
        out.u8(match set_by_owner {
            0 => SCHEMA,
            _ => SCHEMA_SET_BY_OWNER,
        });
        push_text(&mut out, self.id.as_str());
        push_text(&mut out, &self.prefix);
        push_text(&mut out, &self.environment);
        out.u64(self.version);
        out.raw(self.digest.as_bytes());
        push_algorithm(&mut out, self.algorithm);
        push_text(&mut out, &self.owner);
        push_text(&mut out, self.lineage.as_str());
        out.optional(self.name.as_deref(), push_text);
        out.optional(self.tier.as_deref(), push_text);
        out.list(self.scopes.iter(), |out, scope| push_text(out, scope));
        push_state(&mut out, &self.state);
        push_time(&mut out, self.created_at);
        for time in [self.not_before, self.expires_at, self.grace_until] {
            out.optional(time, push_time);
        }
        for id in [self.rotated_from, self.rotated_to] {
            out.optional(id, |out, id| push_text(out, id.as_str()));
        }
        out.list(self.metadata.iter(), |out, (name, value)| {
            push_text(out, name);
            push_text(out, value);
        });
        push_constraints(&mut out, &self.constraints);
        for allowance in [self.credits, self.limit] {
            out.optional(allowance, |out, own| push_text(out, &own.to_string()));
        }
        out.optional(self.slow_hash.as_deref(), push_text);
        out.optional(self.rotated_at, push_time);
        if set_by_owner != 0 {
            out.u8(set_by_owner);
        }
        out
    }

    /// Parses a record from the output of [`KeyRecord::to_bytes`].
    ///
    /// # Errors
    ///
    /// Returns [`StoreErrorKind::Corrupt`] for any other input.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StoreError> {
        let mut reader = BinaryReader::new(bytes);
        let record = match bytes.len() <= Self::MAX_BYTES {
            true => read_record(&mut reader).and_then(|record| reader.finish(record)),
            false => None,
        };
        record.ok_or_else(|| StoreError::new(StoreErrorKind::Corrupt))
    }
}

fn push_text(out: &mut BinaryWriter, text: &str) {
    out.bytes(text.as_bytes());
}

fn push_time(out: &mut BinaryWriter, time: Timestamp) {
    out.u64(time.as_micros());
}

fn push_algorithm(out: &mut BinaryWriter, algorithm: DigestAlgorithm) {
    match algorithm {
        DigestAlgorithm::HmacSha256 { pepper_id } => {
            out.u8(1);
            out.u16(pepper_id);
        }
        DigestAlgorithm::Sha256 => out.u8(2),
        DigestAlgorithm::Imported { hash, pepper_id } => {
            out.u8(3);
            out.u8(match hash {
                ImportedAlgorithm::Sha256 => 1,
                ImportedAlgorithm::Sha512 => 2,
                ImportedAlgorithm::Argon2 => 3,
            });
            out.optional(pepper_id, BinaryWriter::u16);
        }
    }
}

fn push_constraints(out: &mut BinaryWriter, constraints: &Constraints) {
    out.list(constraints.networks.iter(), |out, network| {
        push_text(out, &network.to_string());
    });
    out.list(constraints.methods.iter(), |out, method| {
        push_text(out, method.as_str());
    });
    out.list(constraints.origins.iter(), |out, origin| {
        push_text(out, origin);
    });
}

fn push_state(out: &mut BinaryWriter, state: &KeyState) {
    let (tag, change) = match state {
        KeyState::Active => return out.u8(0),
        KeyState::Disabled(change) => (1, change),
        KeyState::Revoked(change) => (2, change),
    };
    out.u8(tag);
    push_time(out, change.at);
    out.optional(change.by.as_deref(), push_text);
    out.optional(change.reason.as_deref(), push_text);
}

type RecordReader<'a> = BinaryReader<&'a [u8]>;

fn read_record(reader: &mut RecordReader<'_>) -> Option<KeyRecord> {
    let has_set_by_owner = match reader.u8()? {
        SCHEMA => false,
        SCHEMA_SET_BY_OWNER => true,
        _ => return None,
    };
    Some(KeyRecord {
        id: read_parsed(reader)?,
        prefix: read_text(reader)?,
        environment: read_text(reader)?,
        version: reader.u64()?,
        digest: KeyDigest::from_bytes(reader.array()?),
        algorithm: read_algorithm(reader)?,
        owner: read_text(reader)?,
        lineage: read_parsed(reader)?,
        name: reader.optional(read_text)?,
        tier: reader.optional(read_text)?,
        scopes: read_scopes(reader)?,
        state: read_state(reader)?,
        created_at: read_time(reader)?,
        not_before: reader.optional(read_time)?,
        expires_at: reader.optional(read_time)?,
        grace_until: reader.optional(read_time)?,
        rotated_from: reader.optional(read_parsed)?,
        rotated_to: reader.optional(read_parsed)?,
        metadata: reader.list(COUNT_MAX, |reader| {
            Some((read_text(reader)?, read_text(reader)?))
        })?,
        constraints: read_constraints(reader)?,
        credits: reader.optional(read_parsed)?,
        limit: reader.optional(read_parsed)?,
        slow_hash: reader.optional(read_text)?,
        rotated_at: reader.optional(read_time)?,
        set_by_owner: match has_set_by_owner {
            true => read_set_by_owner(reader)?,
            false => SetByOwner::default(),
        },
        seal: reader.optional(read_seal)?,
    })
}

fn read_text(reader: &mut RecordReader<'_>) -> Option<String> {
    let text = reader.bytes(KeyRecord::MAX_BYTES)?;
    str::from_utf8(text).ok().map(str::to_owned)
}

fn read_parsed<T: FromStr>(reader: &mut RecordReader<'_>) -> Option<T> {
    let text = reader.bytes(KeyRecord::MAX_BYTES)?;
    str::from_utf8(text).ok()?.parse().ok()
}

fn read_time(reader: &mut RecordReader<'_>) -> Option<Timestamp> {
    reader.u64().map(Timestamp::from_micros)
}

/// Reads a set and rejects an empty one, so that each record has exactly one serialization.
fn read_set_by_owner(reader: &mut RecordReader<'_>) -> Option<SetByOwner> {
    SetByOwner::from_bits(reader.u8()?).filter(|set| set.bits() != 0)
}

fn read_algorithm(reader: &mut RecordReader<'_>) -> Option<DigestAlgorithm> {
    match reader.u8()? {
        1 => Some(DigestAlgorithm::HmacSha256 {
            pepper_id: reader.u16()?,
        }),
        2 => Some(DigestAlgorithm::Sha256),
        3 => Some(DigestAlgorithm::Imported {
            hash: match reader.u8()? {
                1 => ImportedAlgorithm::Sha256,
                2 => ImportedAlgorithm::Sha512,
                3 => ImportedAlgorithm::Argon2,
                _ => return None,
            },
            pepper_id: reader.optional(BinaryReader::u16)?,
        }),
        _ => None,
    }
}

/// Identities use binary search, so an unsorted list would hide some of the scopes.
fn read_scopes(reader: &mut RecordReader<'_>) -> Option<Vec<String>> {
    let scopes: Vec<String> = reader.list(COUNT_MAX, read_text)?;
    scopes
        .is_sorted_by(|one, next| one < next)
        .then_some(scopes)
}

fn read_seal(reader: &mut RecordReader<'_>) -> Option<RecordSeal> {
    Some(RecordSeal {
        pepper_id: reader.u16()?,
        digest: KeyDigest::from_bytes(reader.array()?),
    })
}

fn read_constraints(reader: &mut RecordReader<'_>) -> Option<Constraints> {
    Some(Constraints {
        networks: reader.list(COUNT_MAX, read_parsed)?,
        methods: reader.list(COUNT_MAX, read_parsed)?,
        origins: reader.list(COUNT_MAX, read_text)?,
    })
}

fn read_state(reader: &mut RecordReader<'_>) -> Option<KeyState> {
    let tag = reader.u8()?;
    if tag == 0 {
        return Some(KeyState::Active);
    }
    let change = StateChange {
        at: read_time(reader)?,
        by: reader.optional(read_text)?,
        reason: reader.optional(read_text)?,
    };
    match tag {
        1 => Some(KeyState::Disabled(change)),
        2 => Some(KeyState::Revoked(change)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{api_key::record::record::tests::record, core::allowance::Allowance};

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
        record.algorithm = DigestAlgorithm::Imported {
            hash: ImportedAlgorithm::Argon2,
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
    fn written_record_reads_back() {
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

    const SHORT: &[u8] = b"\
        \x01\x10\x00\x00\x001AAAAAAAAAAAAAAA\x04\x00\x00\x00acme\x04\x00\x00\x00live\x01\x00\x00\
        \x00\x00\x00\x00\x00\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\
        \x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x01\x01\x00\x04\x00\x00\x00a\
        cme\x10\x00\x00\x001AAAAAAAAAAAAAAA\x00\x01\x03\x00\x00\x00pro\x02\x00\x00\x00\x01\x00\
        \x00\x00a\x01\x00\x00\x00b\x00\x00\x10\xa5\xd4\xe8\x00\x00\x00\x00\x00\x00\x00\x00\x00\
        \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";

    const FULL: &[u8] = b"\
        \x02\x10\x00\x00\x001AAAAAAAAAAAAAAA\x04\x00\x00\x00acme\x04\x00\x00\x00live\x01\x00\x00\
        \x00\x00\x00\x00\x00\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\
        \x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x03\x03\x01\x07\x00\x04\x00\
        \x00\x00acme\x10\x00\x00\x001AAAAAAAAAAAAAAA\x01\x07\x00\x00\x00gr\xc3\xbc\xc3\x9fe\x01\
        \x03\x00\x00\x00pro\x02\x00\x00\x00\x01\x00\x00\x00a\x01\x00\x00\x00b\x01\x00\x10\xa5\xd4\
        \xe8\x00\x00\x00\x01\x05\x00\x00\x00alice\x00\x00\x10\xa5\xd4\xe8\x00\x00\x00\x01\x00\x10\
        \xa5\xd4\xe8\x00\x00\x00\x01\x00\x10\xa5\xd4\xe8\x00\x00\x00\x01\x00\x10\xa5\xd4\xe8\x00\
        \x00\x00\x01\x10\x00\x00\x001AAAAAAAAAAAAAAA\x01\x10\x00\x00\x001AAAAAAAAAAAAAAA\x01\x00\
        \x00\x00\x01\x00\x00\x00a\x01\x00\x00\x00b\x02\x00\x00\x00\n\x00\x00\x0010.0.0.0/8\x07\
        \x00\x00\x00::1/128\x01\x00\x00\x00\x03\x00\x00\x00GET\x01\x00\x00\x00\x13\x00\x00\x00htt\
        ps://app.example\x01\x0b\x00\x00\x0050000/month\x01\x06\x00\x00\x0020/90s\x01\n\x00\x00\
        \x00$argon2id$\x01\x00\x10\xa5\xd4\xe8\x00\x00\x00\t\x01\x03\x00\t\t\t\t\t\t\t\t\t\t\t\t\
        \t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t";

    const REVOKED: &[u8] = b"\
        \x02\x10\x00\x00\x001AAAAAAAAAAAAAAA\x04\x00\x00\x00acme\x04\x00\x00\x00live\x01\x00\x00\
        \x00\x00\x00\x00\x00\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\
        \x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x02\x04\x00\x00\x00acme\x10\
        \x00\x00\x001AAAAAAAAAAAAAAA\x01\x07\x00\x00\x00gr\xc3\xbc\xc3\x9fe\x01\x03\x00\x00\x00pr\
        o\x02\x00\x00\x00\x01\x00\x00\x00a\x01\x00\x00\x00b\x02\x01\x00\x00\x00\x00\x00\x00\x00\
        \x00\x01\x06\x00\x00\x00leaked\x00\x10\xa5\xd4\xe8\x00\x00\x00\x01\x00\x10\xa5\xd4\xe8\
        \x00\x00\x00\x01\x00\x10\xa5\xd4\xe8\x00\x00\x00\x01\x00\x10\xa5\xd4\xe8\x00\x00\x00\x01\
        \x10\x00\x00\x001AAAAAAAAAAAAAAA\x01\x10\x00\x00\x001AAAAAAAAAAAAAAA\x01\x00\x00\x00\x01\
        \x00\x00\x00a\x01\x00\x00\x00b\x02\x00\x00\x00\n\x00\x00\x0010.0.0.0/8\x07\x00\x00\x00::1\
        /128\x01\x00\x00\x00\x03\x00\x00\x00GET\x01\x00\x00\x00\x13\x00\x00\x00https://app.exampl\
        e\x01\x0b\x00\x00\x0050000/month\x01\x06\x00\x00\x0020/90s\x01\n\x00\x00\x00$argon2id$\
        \x01\x00\x10\xa5\xd4\xe8\x00\x00\x00\t\x01\x03\x00\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\
        \t\t\t\t\t\t\t\t\t\t\t\t\t";

    /// Processes of other versions read these bytes.
    #[test]
    fn written_bytes_never_change() {
        let mut revoked = full();
        revoked.algorithm = DigestAlgorithm::Sha256;
        revoked.state = KeyState::Revoked(StateChange {
            at: Timestamp::from_micros(1),
            by: None,
            reason: Some("leaked".to_owned()),
        });
        for (record, golden) in [(record(), SHORT), (full(), FULL), (revoked, REVOKED)] {
            assert_eq!(record.to_bytes(), golden);
            assert_eq!(KeyRecord::from_bytes(golden).unwrap().to_bytes(), golden);
        }
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
        assert!(KeyRecord::from_bytes(&vec![1; KeyRecord::MAX_BYTES + 1]).is_err());
    }

    #[test]
    fn scopes_out_of_order_are_corrupt() {
        let mut record = record();
        record.scopes.reverse();
        assert!(KeyRecord::from_bytes(&record.to_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..400),
        ) {
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
