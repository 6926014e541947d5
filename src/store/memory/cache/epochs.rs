//! When what was purged last, in a bounded place.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

use crate::{cache::PurgeTarget, store_key::StoreKey};

/// How many cells a row has.
const CELLS: usize = 1 << 14;

/// When what was purged last.
///
/// Two rows of cells, each of which remembers the latest purge of all targets that fall into it;
/// the earlier of a target's two cells counts. So nothing that was purged is ever forgotten, and
/// the room does not grow: once many thousands of targets have been purged, an answer that is
/// older than they are may be lost with them, and is made again.
#[derive(Default)]
pub(super) struct Epochs {
    rows: OnceLock<[Box<[AtomicU64]>; 2]>,
    all: AtomicU64,
}

impl Epochs {
    /// Returns whether anything was ever purged.
    pub(super) fn any(&self) -> bool {
        self.rows.get().is_some()
    }

    /// Returns when a target was purged last, or later; zero if it never was.
    pub(super) fn of(&self, target: &PurgeTarget) -> u64 {
        let Some([one, two]) = self.rows.get() else {
            return 0;
        };
        match places(target) {
            None => self.all.load(Ordering::Acquire),
            Some((first, second)) => {
                let first = one[first].load(Ordering::Acquire);
                first.min(two[second].load(Ordering::Acquire))
            }
        }
    }

    /// Remembers that a target was purged.
    pub(super) fn raise(&self, target: &PurgeTarget, at: u64) {
        let row = || (0..CELLS).map(|_| AtomicU64::new(0)).collect();
        let [one, two] = self.rows.get_or_init(|| [row(), row()]);
        match places(target) {
            None => self.all.fetch_max(at, Ordering::AcqRel),
            Some((first, second)) => {
                one[first].fetch_max(at, Ordering::AcqRel);
                two[second].fetch_max(at, Ordering::AcqRel)
            }
        };
    }
}

/// Returns a target's cell in each row. Digests of different kinds are of different spaces: a URL
/// and a tag fall into one cell no more often than two URLs do.
fn places(target: &PurgeTarget) -> Option<(usize, usize)> {
    match target {
        PurgeTarget::All => None,
        PurgeTarget::Uri(key) | PurgeTarget::Tag(key) | PurgeTarget::Partition(key) => {
            Some((cell(key, 0), cell(key, 8)))
        }
    }
}

fn cell(key: &StoreKey, from: usize) -> usize {
    let bytes = key.as_bytes();
    (usize::from(bytes[from]) | usize::from(bytes[from + 1]) << 8) % CELLS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(digest: u128) -> PurgeTarget {
        PurgeTarget::Uri(StoreKey::from_bytes(digest.to_le_bytes()))
    }

    #[test]
    fn the_latest_purge_of_a_target_counts() {
        let epochs = Epochs::default();
        assert_eq!(epochs.of(&uri(1)), 0);
        epochs.raise(&uri(1), 7);
        epochs.raise(&uri(1), 5);
        assert_eq!(epochs.of(&uri(1)), 7);
        assert_eq!(epochs.of(&uri(2)), 0);
    }

    #[test]
    fn a_purge_of_all_is_its_own_target() {
        let epochs = Epochs::default();
        epochs.raise(&PurgeTarget::All, 3);
        assert_eq!(epochs.of(&PurgeTarget::All), 3);
        assert_eq!(epochs.of(&uri(0)), 0);
    }

    #[test]
    fn a_target_that_shares_one_cell_keeps_its_own_time() {
        let epochs = Epochs::default();
        epochs.raise(&uri(1), 7);
        assert_eq!(epochs.of(&uri(1 | 1 << 64)), 0);
    }

    proptest::proptest! {
        #[test]
        fn no_purge_is_forgotten(
            purges in proptest::collection::vec((proptest::num::u128::ANY, 1_u64..1_000), 1..200),
        ) {
            let epochs = Epochs::default();
            for (digest, at) in &purges {
                epochs.raise(&uri(*digest), *at);
            }
            for (digest, at) in &purges {
                proptest::prop_assert!(epochs.of(&uri(*digest)) >= *at);
            }
        }
    }
}
