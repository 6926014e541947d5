//! Purges, compared with entries when these are looked up.
//!
//! A purge names a URL, a tag, a caller, or everything. It records its time with the names and
//! touches no entry, so its cost does not depend on what is stored. An entry is valid while its
//! fence is later than the last purge of each of its names.

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

/// The number of locks that the names are spread over.
pub(super) const SHARDS: usize = 64;

/// The purges of a cache.
///
/// Each name that a stored entry has owns a cell with the exact time of its last purge, from the
/// first such entry until the last one is dropped. So purges of other names never affect an entry,
/// and the memory is bounded by what is stored. Purges of all other names are recorded in a
/// [`Sketch`] of fixed size, which a cell starts from: they matter only to fills in flight.
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

/// A cell, and how often stored entries refer to it.
pub(super) struct NamedCell {
    cell: CellId,
    entries: u32,
}

/// The state of an entry after the purges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// No purge reaches it.
    Valid,
    /// A soft purge does: it must be revalidated.
    Expired,
    /// A hard purge does.
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

    /// Returns the present time, which is the fence of a lookup.
    #[inline]
    pub(crate) fn now(&self) -> u64 {
        self.clock.load(Ordering::Acquire)
    }

    /// Registers the names of an entry that is about to be stored. `None` if it was purged since the
    /// lookup with its fence.
    ///
    /// From here on each purge of the names reaches the entry.
    pub(crate) fn register(
        self: &Arc<Self>,
        names: impl Iterator<Item = Name> + Clone,
        fence: u64,
    ) -> Option<StoredNames> {
        // Most refusals are found here, and take no cells.
        if names.clone().any(|name| self.last(&name) >= fence) {
            return None;
        }
        let stored = self.hold_all(names);
        let is_purged = self.compare(&stored, fence) == Standing::Purged;
        (!is_purged).then_some(stored)
    }

    /// Returns whether an entry with these names was purged since the lookup with this fence: hard or
    /// softly. An entry that is not stored may be taken for a purged one.
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

    /// Returns when a name was last purged hard, or later.
    fn last(&self, name: &Name) -> u64 {
        self.last_of(name, PurgeMode::Hard)
    }

    /// Returns when a name was last purged in this mode, or later.
    fn last_of(&self, name: &Name, mode: PurgeMode) -> u64 {
        match self.shard(name).get(name) {
            Some(place) => self.cells.get(place.cell).last(mode),
            None => self.unstored(mode).last(name),
        }
    }

    /// Returns how an entry stands now. `now` is from before the entry was read.
    #[inline]
    pub(crate) fn standing(&self, names: &StoredNames, fence: u64, now: u64) -> Standing {
        // Every purge since is later than the fence, and there was none.
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

    /// Purges every entry that has one of these names; `None` names everything.
    ///
    /// The cost does not depend on what is stored.
    pub(crate) fn purge(&self, names: impl IntoIterator<Item = Option<Name>>, mode: PurgeMode) {
        // Lookups from now on have a later fence, all others at most this one.
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

    /// Takes a cell that knows of all purges of its name. Runs under the lock of the name's shard.
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

    /// Keeps the purges of a name that loses its cell, for fills in flight.
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

    /// Returns how many names stored entries have.
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
/// The value that [`PurgeTable::register`] returns holds the names until it is dropped, and stands with
/// the entry in the store. A clone only reads them, so that lookups need not count references.
///
/// It is small, as each lookup in memory copies it: most entries have a URL and a caller alone.
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
            // Two names stand in the entry, and the others behind it.
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
