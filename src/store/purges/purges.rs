//! Records of purges. Lookups compare entries with these records.
//!
//! A purge targets a URL, a tag, a caller, or all entries. A purge records its time for the
//! targeted names and does not visit any entry, so the cost of a purge does not depend on the
//! number of entries. An entry is valid as long as its fence is later than the last purge of every
//! name of the entry.

use super::{
    cells::{Cell, CellId, Cells},
    name::{DigestHasher, Name},
    sketch::Sketch,
};
use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    hash::BuildHasherDefault,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::cache::PurgeMode;

/// The number of locks over which the names are distributed.
pub(super) const SHARDS: usize = 64;

/// The purges of one cache.
///
/// Each name of a stored entry has a cell that contains the exact time of the name's last purge.
/// The cell exists from the first entry with that name until the last such entry is removed. Purges
/// of other names therefore never affect an entry, and the number of stored entries limits the
/// memory. Purges of all other names are recorded in a [`Sketch`] of fixed size, from which a new
/// cell is initialized. Such purges matter only to fills in flight.
pub(crate) struct PurgeTable {
    /// The time of the next purge.
    pub(super) clock: AtomicU64,
    pub(super) all: Cell,
    shards: Box<[Mutex<Shard>]>,
    cells: Cells,
    unstored_hard: Sketch,
    unstored_soft: Sketch,
}

pub(super) type Shard = HashMap<Name, NamedCell, BuildHasherDefault<DigestHasher>>;

/// A cell and the number of stored entries that use it.
pub(super) struct NamedCell {
    cell: CellId,
    entries: u32,
}

/// The effect of purges on an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The entry was not purged.
    Valid,
    /// The entry was purged softly and must be revalidated.
    Expired,
    /// The entry was purged.
    Purged,
}

impl PurgeTable {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            clock: AtomicU64::new(1),
            all: Cell::default(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            cells: Cells::default(),
            unstored_hard: Sketch::default(),
            unstored_soft: Sketch::default(),
        })
    }

    /// Returns the current time, which is the fence of a lookup.
    #[inline]
    pub(crate) fn now(&self) -> u64 {
        self.clock.load(Ordering::Acquire)
    }

    /// Registers the names of an entry that is about to be stored. Returns `None` if the entry was
    /// purged after the lookup with its fence.
    ///
    /// All later purges of these names affect the entry.
    pub(crate) fn register(
        self: &Arc<Self>,
        names: impl Iterator<Item = Name> + Clone,
        fence: u64,
    ) -> Option<StoredNames> {
        // Most rejections happen here and need no cells.
        if names.clone().any(|name| self.last(&name) >= fence) {
            return None;
        }
        let stored = self.hold_all(names);
        let is_purged = self.compare(&stored, fence) == Standing::Purged;
        (!is_purged).then_some(stored)
    }

    /// Returns `true` if an entry with these names was purged, either hard or softly, after the
    /// lookup with this fence. The result can be a false positive for an entry that is not stored.
    pub(crate) fn is_purged_since(&self, names: impl Iterator<Item = Name>, fence: u64) -> bool {
        if fence >= self.now() {
            return false;
        }
        let (hard, soft) = self.all.last_of_each();
        let mut last = names.map(|name| {
            let soft = self.last_of(&name, PurgeMode::Soft);
            self.last_of(&name, PurgeMode::Hard).max(soft)
        });
        hard.max(soft) >= fence || last.any(|last| last >= fence)
    }

    fn hold_all(self: &Arc<Self>, names: impl Iterator<Item = Name>) -> StoredNames {
        let mut cells = names.map(|name| self.hold(name));
        let first = std::array::from_fn(|_| cells.next());
        let rest: Vec<_> = cells.collect();
        StoredNames {
            first,
            rest: (!rest.is_empty()).then(|| Arc::new(rest)),
            held_in: Some(Arc::clone(self)),
        }
    }

    /// Returns an upper bound for the time of a name's last hard purge.
    fn last(&self, name: &Name) -> u64 {
        self.last_of(name, PurgeMode::Hard)
    }

    /// Returns an upper bound for the time of a name's last purge in this mode.
    fn last_of(&self, name: &Name, mode: PurgeMode) -> u64 {
        match self.shard(name).get(name) {
            Some(place) => self.cells.get(place.cell).last(mode),
            None => self.unstored(mode).last(name),
        }
    }

    /// Returns the effect of purges on an entry. The caller must have read `now` before it read the
    /// entry.
    #[inline]
    pub(crate) fn standing(&self, names: &StoredNames, fence: u64, now: u64) -> Standing {
        // There was no purge since the fence.
        if fence >= now {
            return Standing::Valid;
        }
        self.compare(names, fence)
    }

    fn compare(&self, names: &StoredNames, fence: u64) -> Standing {
        let (mut hard, mut soft) = self.all.last_of_each();
        let mut add = |id: &CellId| {
            let last = self.cells.get(*id).last_of_each();
            (hard, soft) = (hard.max(last.0), soft.max(last.1));
        };
        names.first.iter().flatten().for_each(&mut add);
        names.rest.iter().flat_map(|rest| rest.iter()).for_each(add);
        if hard >= fence {
            Standing::Purged
        } else if soft >= fence {
            Standing::Expired
        } else {
            Standing::Valid
        }
    }

    /// Purges the entries that have one of these names. `None` targets all entries.
    ///
    /// The cost does not depend on the number of entries.
    pub(crate) fn purge(&self, names: impl IntoIterator<Item = Option<Name>>, mode: PurgeMode) {
        // Later lookups have a larger fence, all others at most this one.
        let at = self.clock.fetch_add(1, Ordering::AcqRel);
        for name in names {
            match name {
                Some(name) => self.raise(name, mode, at),
                None => self.all.raise(mode, at),
            }
        }
    }

    fn raise(&self, name: Name, mode: PurgeMode, at: u64) {
        let shard = self.shard(&name);
        match shard.get(&name) {
            Some(place) => self.cells.get(place.cell).raise(mode, at),
            None => self.unstored(mode).raise(&name, at),
        }
    }

    fn hold(&self, name: Name) -> CellId {
        let mut shard = self.shard(&name);
        let place = match shard.entry(name) {
            Entry::Occupied(place) => place.into_mut(),
            Entry::Vacant(place) => place.insert(NamedCell {
                cell: self.new_cell(name),
                entries: 0,
            }),
        };
        place.entries += 1;
        place.cell
    }

    /// Takes a cell and initializes it with all purges of its name. The caller holds the lock of
    /// the shard.
    fn new_cell(&self, name: Name) -> CellId {
        let id = self.cells.take(name);
        for mode in [PurgeMode::Hard, PurgeMode::Soft] {
            let last = self.unstored(mode).last(&name);
            self.cells.get(id).raise(mode, last);
        }
        id
    }

    #[cold]
    fn release_all(&self, names: &StoredNames) {
        names.cells().for_each(|id| self.release(id));
    }

    fn release(&self, id: CellId) {
        let cell = self.cells.get(id);
        let name = cell.name();
        let mut shard = self.shard(&name);
        let Entry::Occupied(mut place) = shard.entry(name) else {
            return;
        };
        place.get_mut().entries -= 1;
        if place.get().entries == 0 {
            place.remove();
            self.remember(&name, cell);
            self.cells.give_back(id);
        }
    }

    /// Copies the purges of a name that is losing its cell to the sketches, for fills in flight.
    fn remember(&self, name: &Name, cell: &Cell) {
        for mode in [PurgeMode::Hard, PurgeMode::Soft] {
            match cell.last(mode) {
                0 => {}
                last => self.unstored(mode).raise(name, last),
            }
        }
    }

    fn unstored(&self, mode: PurgeMode) -> &Sketch {
        match mode {
            PurgeMode::Hard => &self.unstored_hard,
            PurgeMode::Soft => &self.unstored_soft,
        }
    }

    fn shard(&self, name: &Name) -> MutexGuard<'_, Shard> {
        let at = usize::from(name.digest[15]) % SHARDS;
        // No foreign code runs under these locks.
        self.shards[at]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of names of stored entries.
    #[cfg(test)]
    pub(crate) fn names(&self) -> usize {
        self.cells.used()
    }
}

impl fmt::Debug for PurgeTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Purges").finish_non_exhaustive()
    }
}

/// The names of a stored entry.
///
/// The value that [`PurgeTable::register`] returns is stored with the entry, and registers the
/// names until it is dropped. A clone only reads the names, so lookups do not count references.
///
/// The value is small because each in-memory lookup copies it. Most entries have only a URL and a
/// caller.
pub(crate) struct StoredNames {
    first: [Option<CellId>; 2],
    rest: Option<Arc<Vec<CellId>>>,
    held_in: Option<Arc<PurgeTable>>,
}

impl StoredNames {
    fn cells(&self) -> impl Iterator<Item = CellId> {
        let rest = self.rest.iter().flat_map(|rest| rest.iter().copied());
        self.first.into_iter().flatten().chain(rest)
    }
}

impl Clone for StoredNames {
    #[inline]
    fn clone(&self) -> Self {
        Self {
            first: self.first,
            rest: self.rest.clone(),
            held_in: None,
        }
    }
}

impl Drop for StoredNames {
    #[inline]
    fn drop(&mut self) {
        if let Some(purges) = self.held_in.take() {
            purges.release_all(self);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u8) -> Name {
        Name::new(b'u', &[number; 16])
    }

    #[test]
    fn entry_is_reached_by_purges_of_its_names_alone() {
        for mode in [PurgeMode::Hard, PurgeMode::Soft] {
            let reached = match mode {
                PurgeMode::Hard => Standing::Purged,
                PurgeMode::Soft => Standing::Expired,
            };
            // The entry stores two names inline, and the others in a vector.
            for own in [Some(name(0)), Some(name(1)), Some(name(4)), None] {
                let purges = PurgeTable::new();
                let fence = purges.now();
                let names = purges.register((0..5).map(name), fence).unwrap();
                let standing = || purges.standing(&names.clone(), fence, purges.now());
                purges.purge([Some(name(7))], mode);
                assert_eq!(standing(), Standing::Valid);
                purges.purge([own], mode);
                assert_eq!(standing(), reached);
            }
        }
    }

    #[test]
    fn names_are_held_by_the_stored_value_and_not_by_its_clones() {
        let purges = PurgeTable::new();
        let names = purges.register((0..5).map(name), 1).unwrap();
        assert_eq!(purges.names(), 5);
        drop(names.clone());
        assert_eq!(purges.names(), 5);
        drop(names);
        assert_eq!(purges.names(), 0);
    }
}
