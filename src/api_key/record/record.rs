//! What is known of a key.

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

/// What is known of a key: everything but its secret.
///
/// Only a `KeyManager` makes and changes records; a store keeps them.
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
    /// The hash of a key that was made elsewhere, if it has a salt.
    pub(crate) slow_hash: Option<String>,
    pub(crate) set_by_owner: SetByOwner,
    pub(crate) seal: Option<RecordSeal>,
}

impl KeyRecord {
    /// Returns the public id.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Returns how the key is spoken of: everything that stands before its secret.
    pub fn display(&self) -> String {
        format!("{}_{}_{}…", self.prefix, self.environment, self.id)
    }

    /// Returns the environment, as in `live` or `test`.
    pub fn environment(&self) -> &str {
        &self.environment
    }

    /// Returns the record's version: 1 when it is created, one more after each change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Returns how the secret was digested.
    pub fn algorithm(&self) -> DigestAlgorithm {
        self.algorithm
    }

    /// Returns whose key it is.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Returns the id of the first key of its line: the same for all that it was rotated to.
    pub fn lineage(&self) -> KeyId {
        self.lineage
    }

    /// Returns what the owner calls it.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Returns the name of the tier that chooses the limits.
    pub fn tier(&self) -> Option<&str> {
        self.tier.as_deref()
    }

    /// Returns how much its line may use in a period, if it has credits.
    pub fn credits(&self) -> Option<Allowance> {
        self.credits
    }

    /// Returns the limit that it has in the place of its tier's.
    pub fn limit(&self) -> Option<Allowance> {
        self.limit
    }

    /// Returns what the key may do, sorted, each scope once.
    pub fn scopes(&self) -> impl ExactSizeIterator<Item = &str> {
        self.scopes.iter().map(String::as_str)
    }

    /// Returns whether the key is switched on, and who switched it off and why.
    pub fn state(&self) -> &KeyState {
        &self.state
    }

    /// Returns when it was made.
    pub fn created_at(&self) -> Timestamp {
        self.created_at
    }

    /// Returns the moment before which it is not accepted.
    pub fn not_before(&self) -> Option<Timestamp> {
        self.not_before
    }

    /// Returns the moment from which on it is not accepted: its expiry or, once it was rotated,
    /// the end of the overlap.
    pub fn expires_at(&self) -> Option<Timestamp> {
        match (self.expires_at, self.grace_until) {
            (Some(expiry), Some(grace)) => Some(expiry.min(grace)),
            (one, other) => one.or(other),
        }
    }

    /// Returns the key that this one replaces.
    pub fn rotated_from(&self) -> Option<KeyId> {
        self.rotated_from
    }

    /// Returns the key that replaces this one.
    pub fn rotated_to(&self) -> Option<KeyId> {
        self.rotated_to
    }

    /// Returns when it was replaced, if it was.
    pub fn rotated_at(&self) -> Option<Timestamp> {
        self.rotated_at
    }

    /// Returns what a caller is told who still uses the key after it was replaced.
    pub(crate) fn overlap(&self) -> Option<Overlap> {
        let (replaced_at, ends_at) = self.rotated_at.zip(self.expires_at())?;
        Some(Overlap {
            replaced_at,
            ends_at,
        })
    }

    /// Returns what else the service wrote down.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Returns from where, and for what, the key may be used.
    pub fn constraints(&self) -> &Constraints {
        &self.constraints
    }

    /// Returns whether the key is accepted at this moment, and if not, why.
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

    /// Returns whether the key is accepted whatever the time is.
    fn is_active_at_any_time(&self) -> bool {
        let times = [self.not_before, self.expires_at, self.grace_until];
        matches!(self.state, KeyState::Active) && times.iter().all(Option::is_none)
    }

    /// Returns the moment from which on the key will never be accepted again, if it is known. A
    /// store keeps its index for `purge` by it.
    pub fn ended_at(&self) -> Option<Timestamp> {
        match &self.state {
            KeyState::Revoked(change) => Some(change.at),
            KeyState::Disabled(_) | KeyState::Active => self.expires_at(),
        }
    }

    /// Returns the hash that takes long to compute, if the key must be proved by it.
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

/// The time in which a key that was replaced is still accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overlap {
    pub(crate) replaced_at: Timestamp,
    pub(crate) ends_at: Timestamp,
}

/// Whether a key is switched on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyState {
    /// It is on.
    Active,
    /// It is off for the time being.
    Disabled(StateChange),
    /// It is off for good.
    Revoked(StateChange),
}

/// Who switched a key off, when and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StateChange {
    /// When.
    pub at: Timestamp,
    /// Who, if the manager was told.
    pub by: Option<String>,
    /// Why, if the manager was told.
    pub reason: Option<String>,
}

/// Whether a key is accepted at some moment, and if not, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyStatus {
    /// It is accepted.
    Active,
    /// It is switched off for the time being.
    Disabled,
    /// It is switched off for good.
    Revoked,
    /// Its time has not begun.
    NotYetValid,
    /// Its time is over.
    Expired,
}

/// A record as stores and caches pass it on: shared, with the identity that it stands for made
/// once. A clone is two reference counts.
#[derive(Debug)]
pub struct StoredKey {
    inner: Arc<RecordInner>,
    identity: Identity,
}

/// What each request reads stands in front, in two lines of the processor's cache: a record has ten
/// of them, and one that was not used a moment ago is not in the cache.
#[derive(Debug)]
#[repr(C)]
struct RecordInner {
    brief: Brief,
    /// The number of the ring that has looked at the seal and found it whole; zero for none.
    trusted_by: AtomicU64,
    record: KeyRecord,
}

/// What each request reads of a record.
#[derive(Debug)]
pub(crate) struct Brief {
    pub(crate) digest: KeyDigest,
    pub(crate) id: KeyId,
    pub(crate) algorithm: DigestAlgorithm,
    /// Whether the key is accepted whatever the time is.
    pub(crate) is_active_at_any_time: bool,
    /// Whether it may be used from anywhere and for anything.
    pub(crate) is_unconstrained: bool,
    /// Whether it must be proved by a hash that takes long.
    pub(crate) is_slow: bool,
}

impl StoredKey {
    /// Shares a record.
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

    /// Returns whether a ring trusts this record, looking at it once.
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

    /// Returns who calls when this key is presented.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(crate) fn into_identity(self) -> Identity {
        self.identity
    }
}

impl Clone for StoredKey {
    /// Has the processor fetch all that a request will need at once: counting references makes it
    /// wait for one line of its cache after the other.
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

    /// Threat A17: no digest is shown.
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
