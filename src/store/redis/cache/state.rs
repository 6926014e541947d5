//! The Redis keys of the cache, and the known `Vary` fields.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    cache::backend::{CacheKey, VarySpec},
    core::store_api::store_key::{StoreKey, StoreKeys},
    store::redis::{
        cache::names::PurgeNames,
        connection::{
            client::Link,
            script::{Script, ScriptCall},
        },
    },
};

/// The number of keys whose `Vary` fields are remembered.
const SPECS: usize = 1_024;

/// The number of slots over which the entries are distributed in a Cluster.
const SHARES: usize = 16;

/// The state that this process has for the cache.
pub(crate) struct CacheShares {
    /// The keys of each slot.
    pub(super) shares: Vec<Share>,
    pub(super) channel: Vec<u8>,
    /// The `Vary` fields of each key at its last lookup, in a direct-mapped table. A correct guess
    /// saves a second lookup.
    specs: Box<[Mutex<Option<Spec>>]>,
}

/// A slot that contains some of the entries, their tokens, and recent purges.
pub(super) struct Share {
    /// The prefix of entry keys.
    pub(super) start: Vec<u8>,
    /// The prefix of token keys.
    pub(super) tokens: Vec<u8>,
    pub(super) purges: Vec<u8>,
}

struct Spec {
    key: [u8; 32],
    pub(super) names: VarySpec,
}

impl CacheShares {
    pub(crate) fn new(link: &Link, _: &StoreKeys) -> Self {
        let count = if link.is_spread() { SHARES } else { 1 };
        let share = |number: usize| {
            let start = link.key("c", &[number as u8]);
            Share {
                tokens: [&link.key("n", &[number as u8])[..], b":"].concat(),
                purges: [&start[..], b":purges"].concat(),
                start,
            }
        };
        Self {
            shares: (0..count).map(share).collect(),
            channel: link.name("purged"),
            specs: (0..SPECS).map(|_| Mutex::default()).collect(),
        }
    }

    /// Returns the slot for the entries of a URL.
    pub(super) fn share_of(&self, uri: &StoreKey) -> &Share {
        let at = usize::from(uri.as_bytes()[0]) % self.shares.len();
        &self.shares[at]
    }

    pub(super) fn guess(&self, key: &CacheKey) -> VarySpec {
        match &*self.spec(key) {
            Some(spec) if spec.key == *key.full().as_bytes() => spec.names.clone(),
            Some(_) | None => VarySpec::default(),
        }
    }

    /// Remembers the `Vary` fields of a key. Most keys have no such fields and take no memory.
    pub(super) fn learn(&self, key: &CacheKey, names: &VarySpec) {
        let mut place = self.spec(key);
        let is_own = matches!(&*place, Some(spec) if spec.key == *key.full().as_bytes());
        if !names.is_empty() {
            *place = Some(Spec {
                key: *key.full().as_bytes(),
                names: names.clone(),
            });
        } else if is_own {
            *place = None;
        }
    }

    fn spec(&self, key: &CacheKey) -> MutexGuard<'_, Option<Spec>> {
        let [first, second, ..] = key.full().as_bytes();
        let at = (usize::from(*first) << 8 | usize::from(*second)) % SPECS;
        // No foreign code runs under this lock.
        self.specs[at]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Creates a script call whose last keys are the tokens of these names.
    pub(super) fn call(
        &self,
        script: &'static Script,
        entry: Option<&[u8]>,
        names: &PurgeNames,
    ) -> ScriptCall {
        let tokens = names.token_keys(&self.tokens);
        let mut keys = vec![&self.purges[..]];
        keys.extend(entry);
        keys.extend(tokens.iter().map(Vec::as_slice));
        script.call(&keys)
    }
}

impl fmt::Debug for CacheShares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CacheShares")
    }
}
