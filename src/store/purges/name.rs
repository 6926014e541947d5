//! The names by which entries are purged.

use std::hash::{Hash, Hasher};

use crate::cache::backend::{CacheKey, PurgeTarget, StoredResponse};

/// The memory that each name takes: its cell, and its slot in the map that finds the cell.
pub(crate) const NAME_BYTES: usize = 128;

/// A name by which entries are purged: a kind and a keyed digest.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Name {
    pub(super) kind: u8,
    pub(super) digest: [u8; 16],
}

impl Name {
    pub(crate) fn new(kind: u8, digest: &[u8; 16]) -> Self {
        Self {
            kind,
            digest: *digest,
        }
    }

    /// Returns the name of a target, or `None` if the target is all entries.
    pub(crate) fn of(target: &PurgeTarget) -> Option<Self> {
        match target {
            PurgeTarget::Uri(key) => Some(Self::new(b'u', key.as_bytes())),
            PurgeTarget::Tag(key) => Some(Self::new(b't', key.as_bytes())),
            PurgeTarget::Partition(key) => Some(Self::new(b'p', key.as_bytes())),
            PurgeTarget::All => None,
        }
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let word = self.digest.first_chunk().expect("a digest has 16 bytes");
        state.write_u64(u64::from_le_bytes(*word));
    }
}

/// Returns the names of an entry: its URL, its caller and its tags.
pub(crate) fn names_of(
    key: &CacheKey,
    entry: &StoredResponse,
) -> impl Iterator<Item = Name> + Clone {
    let own = [
        PurgeTarget::Uri(*key.uri()),
        PurgeTarget::Partition(*entry.partition()),
    ];
    let tags = entry.tags().iter().map(|tag| PurgeTarget::Tag(*tag));
    own.into_iter()
        .chain(tags)
        .filter_map(|target| Name::of(&target))
}

/// A hasher that uses a keyed digest as the hash.
#[derive(Default)]
pub(crate) struct DigestHasher(u64);

impl Hasher for DigestHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
