//! The record of a key.

use std::{
    collections::BTreeMap,
    fmt,
    hint::black_box,
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::constraints::Constraints;
use crate::{
    api_key::{
        key::{
            digest::{DigestAlgorithm, KeyDigest, RecordSeal},
            format::KeyId,
        },
        manage::authority::SetByOwner,
    },
    core::{allowance::Allowance, identity::Identity, time::Timestamp},
};

/// The stored record of a key, without its secret.
///
/// Only a `KeyManager` creates and changes records.
#[derive(Clone)]
pub struct KeyRecord {
    pub(crate) id: KeyId,
    pub(crate) prefix: String,
    pub(crate) environment: String,
    pub(crate) version: u64,
    pub(crate) digest: KeyDigest,
    pub(crate) algorithm: DigestAlgorithm,
    pub(crate) owner: String,
    pub(crate) lineage: KeyId,
    pub(crate) name: Option<String>,
    pub(crate) tier: Option<String>,
    pub(crate) credits: Option<Allowance>,
    pub(crate) limit: Option<Allowance>,
    pub(crate) scopes: Vec<String>,
    pub(crate) state: KeyState,
    pub(crate) created_at: Timestamp,
    pub(crate) not_before: Option<Timestamp>,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) grace_until: Option<Timestamp>,
    pub(crate) rotated_at: Option<Timestamp>,
    pub(crate) rotated_from: Option<KeyId>,
    pub(crate) rotated_to: Option<KeyId>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) constraints: Constraints,
    /// The salted hash of an imported key.
    pub(crate) slow_hash: Option<String>,
    pub(crate) set_by_owner: SetByOwner,
    pub(crate) seal: Option<RecordSeal>,
}

impl KeyRecord {
    /// Returns the public id.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Returns the part of the key before its secret, for display and logs.
    pub fn display(&self) -> String {
        format!("{}_{}_{}…", self.prefix, self.environment, self.id)
    }

    /// Returns the environment, for example `live` or `test`.
    pub fn environment(&self) -> &str {
        &self.environment
    }

    /// Returns the version of the record. The version is 1 at creation, and each change increments
    /// it.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Returns the algorithm of the key's digest.
    pub fn algorithm(&self) -> DigestAlgorithm {
        self.algorithm
    }

    /// Returns the owner of the key.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Returns the lineage of the key: the id of the first key in its chain of rotations.
    pub fn lineage(&self) -> KeyId {
        self.lineage
    }

    /// Returns the display name of the key, if it has one.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Returns the tier that selects the key's limits, if it has one.
    pub fn tier(&self) -> Option<&str> {
        self.tier.as_deref()
    }

    /// Returns the credits, an allowance per period that all keys of the [lineage](Self::lineage)
    /// share.
    pub fn credits(&self) -> Option<Allowance> {
        self.credits
    }

    /// Returns the limit that replaces the limit of the tier.
    pub fn limit(&self) -> Option<Allowance> {
        self.limit
    }

    /// Returns the scopes of the key, sorted and without duplicates.
    pub fn scopes(&self) -> impl ExactSizeIterator<Item = &str> {
        self.scopes.iter().map(String::as_str)
    }

    /// Returns the state of the key.
    pub fn state(&self) -> &KeyState {
        &self.state
    }

    /// Returns the creation time.
    pub fn created_at(&self) -> Timestamp {
        self.created_at
    }

    /// Returns the time before which the key is not accepted.
    pub fn not_before(&self) -> Option<Timestamp> {
        self.not_before
    }

    /// Returns the time from which the key is no longer accepted: the earlier of its expiry and the
    /// end of its rotation overlap.
    pub fn expires_at(&self) -> Option<Timestamp> {
        match (self.expires_at, self.grace_until) {
            (Some(expiry), Some(grace)) => Some(expiry.min(grace)),
            (one, other) => one.or(other),
        }
    }

    /// Returns the id of the key that this one replaces.
    pub fn rotated_from(&self) -> Option<KeyId> {
        self.rotated_from
    }

    /// Returns the id of the key that replaces this one.
    pub fn rotated_to(&self) -> Option<KeyId> {
        self.rotated_to
    }

    /// Returns the time at which the key was replaced.
    pub fn rotated_at(&self) -> Option<Timestamp> {
        self.rotated_at
    }

    /// Returns the rotation overlap, for the response to callers that still use a replaced key.
    pub(crate) fn overlap(&self) -> Option<Overlap> {
        let (replaced_at, ends_at) = self.rotated_at.zip(self.expires_at())?;
        Some(Overlap {
            replaced_at,
            ends_at,
        })
    }

    /// Returns the metadata that the application added to the key.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Returns the restrictions on the use of the key.
    pub fn constraints(&self) -> &Constraints {
        &self.constraints
    }

    /// Returns the status of the key at the given time.
    pub fn status_at(&self, now: Timestamp) -> KeyStatus {
        match &self.state {
            KeyState::Revoked(_) => KeyStatus::Revoked,
            KeyState::Disabled(_) => KeyStatus::Disabled,
            KeyState::Active if self.not_before.is_some_and(|from| now < from) => {
                KeyStatus::NotYetValid
            }
            KeyState::Active if self.expires_at().is_some_and(|end| end <= now) => {
                KeyStatus::Expired
            }
            KeyState::Active => KeyStatus::Active,
        }
    }

    /// Returns `true` if the key is accepted at any time.
    fn is_active_at_any_time(&self) -> bool {
        let times = [self.not_before, self.expires_at, self.grace_until];
        matches!(self.state, KeyState::Active) && times.iter().all(Option::is_none)
    }

    /// Returns the time from which the key can never be accepted again, or `None` if there is no
    /// such time. Stores use this time as the index for
    /// [`purge`](crate::api_key::ApiKeyStore::purge).
    pub fn ended_at(&self) -> Option<Timestamp> {
        match &self.state {
            KeyState::Revoked(change) => Some(change.at),
            KeyState::Disabled(_) | KeyState::Active => self.expires_at(),
        }
    }

    /// Returns the slow hash by which the key must be verified, if any.
    pub(crate) fn slow_hash(&self) -> Option<&str> {
        self.slow_hash.as_deref()
    }

    fn to_identity(&self) -> Identity {
        let mut identity = Identity::builder(self.id.as_str())
            .lineage(self.lineage.as_str())
            .owner(self.owner.as_str())
            .scopes(self.scopes.iter().map(String::as_str));
        if let Some(tier) = &self.tier {
            identity = identity.tier(tier.as_str());
        }
        if let Some(credits) = self.credits {
            identity = identity.credits(credits);
        }
        if let Some(limit) = self.limit {
            identity = identity.limit(limit);
        }
        for (name, value) in &self.metadata {
            identity = identity.metadata(name.as_str(), value.as_str());
        }
        identity.build()
    }
}

impl fmt::Debug for KeyRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRecord")
            .field("key", &self.display())
            .field("version", &self.version)
            .field("owner", &self.owner)
            .field("tier", &self.tier)
            .field("scopes", &self.scopes)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// The time during which a replaced key is still accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overlap {
    pub(crate) replaced_at: Timestamp,
    pub(crate) ends_at: Timestamp,
}

/// The state of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyState {
    /// The key is active.
    Active,
    /// The key is disabled and can be enabled again.
    Disabled(StateChange),
    /// The key is revoked permanently.
    Revoked(StateChange),
}

/// The time, actor and reason of a state change.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StateChange {
    /// The time of the change.
    pub at: Timestamp,
    /// The actor that made the change, if it is known.
    pub by: Option<String>,
    /// The reason, if one was given.
    pub reason: Option<String>,
}

/// The status of a key at a given time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyStatus {
    /// The key is accepted.
    Active,
    /// The key is disabled.
    Disabled,
    /// The key is revoked.
    Revoked,
    /// The key is not valid yet.
    NotYetValid,
    /// The key has expired.
    Expired,
}

/// A stored record with its precomputed [`Identity`]. Clones share the record: cloning only
/// increments two reference counts.
#[derive(Debug)]
pub struct StoredKey {
    inner: Arc<RecordInner>,
    identity: Identity,
}

/// The fields that each request reads are placed first, in two cache lines. A record spans ten, and
/// a record that was not used recently is not in the processor's cache.
#[derive(Debug)]
#[repr(C)]
struct RecordInner {
    brief: Brief,
    /// The number of the ring that has verified the seal, or zero.
    trusted_by: AtomicU64,
    record: KeyRecord,
}

/// The part of a record that each request reads.
#[derive(Debug)]
pub(crate) struct Brief {
    pub(crate) digest: KeyDigest,
    pub(crate) id: KeyId,
    pub(crate) algorithm: DigestAlgorithm,
    /// `true` if the key is accepted at any time.
    pub(crate) is_active_at_any_time: bool,
    /// `true` if the key has no constraints.
    pub(crate) is_unconstrained: bool,
    /// `true` if the key must be verified by a slow hash.
    pub(crate) is_slow: bool,
}

impl StoredKey {
    /// Wraps a record and computes its identity.
    pub fn new(record: KeyRecord) -> Self {
        let identity = record.to_identity();
        let brief = Brief {
            digest: record.digest.clone(),
            id: record.id,
            algorithm: record.algorithm,
            is_active_at_any_time: record.is_active_at_any_time(),
            is_slow: record.slow_hash.is_some(),
            is_unconstrained: record.constraints == Constraints::new(),
        };
        Self {
            inner: Arc::new(RecordInner {
                brief,
                record,
                trusted_by: AtomicU64::new(0),
            }),
            identity,
        }
    }

    /// Returns `true` if the ring trusts this record. `look` runs once per ring.
    pub(crate) fn is_trusted_by(&self, ring: u64, look: impl FnOnce() -> bool) -> bool {
        let trusted_by = &self.inner.trusted_by;
        if trusted_by.load(Ordering::Relaxed) == ring {
            return true;
        }
        let trusted = look();
        if trusted {
            trusted_by.store(ring, Ordering::Relaxed);
        }
        trusted
    }

    pub(crate) fn brief(&self) -> &Brief {
        &self.inner.brief
    }

    /// Returns the identity of callers that present this key.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(crate) fn into_identity(self) -> Identity {
        self.identity
    }
}

impl Clone for StoredKey {
    /// Clones the record, and first prefetches all of the cache lines that a request needs: the
    /// reference counts alone would load them one after the other.
    #[inline]
    fn clone(&self) -> Self {
        self.identity.fetch();
        black_box(self.inner.brief.is_slow);
        Self {
            inner: Arc::clone(&self.inner),
            identity: self.identity.clone(),
        }
    }
}

impl Deref for StoredKey {
    type Target = KeyRecord;

    fn deref(&self) -> &KeyRecord {
        &self.inner.record
    }
}

impl From<KeyRecord> for StoredKey {
    fn from(record: KeyRecord) -> Self {
        Self::new(record)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;

    const NOON: Timestamp = Timestamp::from_secs(1_000_000);

    pub(crate) fn record() -> KeyRecord {
        let id: KeyId = "1AAAAAAAAAAAAAAA".parse().unwrap();
        KeyRecord {
            id,
            prefix: "acme".to_owned(),
            environment: "live".to_owned(),
            version: 1,
            digest: KeyDigest::from_bytes([7; 32]),
            algorithm: DigestAlgorithm::HmacSha256 { pepper_id: 1 },
            owner: "acme".to_owned(),
            lineage: id,
            name: None,
            tier: Some("pro".to_owned()),
            credits: None,
            limit: None,
            scopes: vec!["a".to_owned(), "b".to_owned()],
            state: KeyState::Active,
            created_at: NOON,
            not_before: None,
            expires_at: None,
            grace_until: None,
            rotated_at: None,
            rotated_from: None,
            rotated_to: None,
            metadata: BTreeMap::new(),
            constraints: Constraints::new(),
            slow_hash: None,
            set_by_owner: SetByOwner::default(),
            seal: None,
        }
    }

    #[test]
    fn a_key_is_accepted_from_its_first_moment_until_just_before_its_last() {
        let mut record = record();
        record.not_before = Some(NOON);
        record.expires_at = Some(NOON + Duration::from_secs(1));
        let just_before = Duration::from_micros(1);
        let status = |at| record.status_at(at);
        assert_eq!(status(NOON - just_before), KeyStatus::NotYetValid);
        assert_eq!(status(NOON), KeyStatus::Active);
        let end = NOON + Duration::from_secs(1);
        assert_eq!(status(end - just_before), KeyStatus::Active);
        assert_eq!(status(end), KeyStatus::Expired);
    }

    #[test]
    fn the_overlap_of_a_rotation_ends_a_key_but_never_lengthens_it() {
        let mut record = record();
        record.grace_until = Some(NOON);
        assert_eq!(record.status_at(NOON), KeyStatus::Expired);
        record.expires_at = Some(NOON - Duration::from_secs(1));
        assert_eq!(record.expires_at(), Some(NOON - Duration::from_secs(1)));
    }

    #[test]
    fn a_revoked_key_ended_when_it_was_revoked() {
        let mut record = record();
        assert_eq!(record.ended_at(), None);
        record.expires_at = Some(NOON + Duration::from_secs(9));
        assert_eq!(record.ended_at(), record.expires_at);
        record.state = KeyState::Revoked(StateChange {
            at: NOON,
            by: None,
            reason: None,
        });
        assert_eq!(record.ended_at(), Some(NOON));
    }

    /// Threat A17: `Debug` does not print digests.
    #[test]
    fn debug_shows_neither_digest_nor_metadata() {
        let mut record = record();
        record.metadata.insert("note".into(), "canary".into());
        let shown = format!("{:?}", StoredKey::new(record));
        assert!(
            !shown.contains("canary") && !shown.contains("[7, 7"),
            "{shown}"
        );
    }
}
