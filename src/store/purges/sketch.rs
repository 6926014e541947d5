//! The last purges of names that have no stored entries, in a fixed amount of memory.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

use super::name::Name;

/// The number of cells in a row.
const CELLS: usize = 1 << 14;

/// An upper bound for the last purge of each name, in two rows of cells.
///
/// A cell stores the latest purge of all names that hash to it. The result for a name is the
/// earlier value of its two cells. No purge is lost. The memory is limited to 256 KiB and is
/// allocated by the first purge. A collision makes a name's last purge appear later than it was.
/// Only fills in flight are compared with a sketch, so a collision can reject one fill but never
/// affects a stored entry.
#[derive(Default)]
pub(super) struct Sketch {
    rows: OnceLock<[Box<[AtomicU64]>; 2]>,
}

impl Sketch {
    /// Returns an upper bound for the time of a name's last purge, or 0 if there was no purge.
    pub(super) fn last(&self, name: &Name) -> u64 {
        let Some([one, two]) = self.rows.get() else {
            return 0;
        };
        let (first, second) = cells(name);
        let first = one[first].load(Ordering::Acquire);
        first.min(two[second].load(Ordering::Acquire))
    }

    /// Records a purge of a name.
    pub(super) fn raise(&self, name: &Name, at: u64) {
        let row = || (0..CELLS).map(|_| AtomicU64::new(0)).collect();
        let [one, two] = self.rows.get_or_init(|| [row(), row()]);
        let (first, second) = cells(name);
        one[first].fetch_max(at, Ordering::AcqRel);
        two[second].fetch_max(at, Ordering::AcqRel);
    }
}

/// Returns a name's cell in each row. Names of different kinds are digests in different key spaces,
/// so they do not collide more often than names of one kind.
fn cells(name: &Name) -> (usize, usize) {
    let cell = |from: usize| {
        let bytes = [name.digest[from], name.digest[from + 1]];
        usize::from(u16::from_le_bytes(bytes)) % CELLS
    };
    (cell(0), cell(8))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(digest: u128) -> Name {
        Name {
            kind: b'u',
            digest: digest.to_le_bytes(),
        }
    }

    #[test]
    fn latest_purge_of_a_name_counts() {
        let sketch = Sketch::default();
        assert_eq!(sketch.last(&name(1)), 0);
        sketch.raise(&name(1), 7);
        sketch.raise(&name(1), 5);
        assert_eq!(sketch.last(&name(1)), 7);
        assert_eq!(sketch.last(&name(2)), 0);
    }

    #[test]
    fn name_that_shares_one_cell_keeps_its_own_time() {
        let sketch = Sketch::default();
        sketch.raise(&name(1), 7);
        assert_eq!(sketch.last(&name(1 | 1 << 64)), 0);
    }

    proptest::proptest! {
        #[test]
        fn sketch_never_loses_a_purge(
            purges in proptest::collection::vec((proptest::num::u128::ANY, 1_u64..1_000), 1..200),
        ) {
            let sketch = Sketch::default();
            for (digest, at) in &purges {
                sketch.raise(&name(*digest), *at);
            }
            for (digest, at) in &purges {
                proptest::prop_assert!(sketch.last(&name(*digest)) >= *at);
            }
        }
    }
}
