//! Cells that store the last purges of names. A cell is addressed by number and read without a
//! lock.

use std::{
    collections::VecDeque,
    num::NonZeroU32,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::name::Name;
use crate::cache::PurgeMode;

/// The number of cells in the first chunk. Each subsequent chunk has twice as many cells as the
/// previous one.
const FIRST_CHUNK: u32 = 64;
/// A number of chunks that is sufficient for all `u32` numbers.
const CHUNKS: usize = 27;

/// The number of a cell, starting at 1.
pub(super) type CellId = NonZeroU32;

/// The last purges of one name.
///
/// The times never decrease, not even when the cell is reused for another name. A reader with an
/// outdated number therefore sees at least every purge of the previous name.
#[derive(Default)]
pub(super) struct Cell {
    hard: AtomicU64,
    soft: AtomicU64,
    name: Mutex<Name>,
}

impl Cell {
    #[inline]
    pub(super) fn last(&self, mode: PurgeMode) -> u64 {
        self.time(mode).load(Ordering::Acquire)
    }

    /// Returns the times of the last hard purge and the last soft purge.
    #[inline]
    pub(super) fn last_of_each(&self) -> (u64, u64) {
        (self.last(PurgeMode::Hard), self.last(PurgeMode::Soft))
    }

    #[inline]
    pub(super) fn raise(&self, mode: PurgeMode, at: u64) {
        self.time(mode).fetch_max(at, Ordering::AcqRel);
    }

    pub(super) fn name(&self) -> Name {
        *lock(&self.name)
    }

    fn time(&self, mode: PurgeMode) -> &AtomicU64 {
        match mode {
            PurgeMode::Hard => &self.hard,
            PurgeMode::Soft => &self.soft,
        }
    }
}

/// All cells. Their memory grows with the number of names in use and is reused.
#[derive(Default)]
pub(super) struct Cells {
    chunks: [OnceLock<Box<[Cell]>>; CHUNKS],
    unused: Mutex<Unused>,
}

struct Unused {
    /// The number of the first cell that was never used.
    next: CellId,
    /// Sorted by the time at which the cells were returned, so that the cell with the oldest times
    /// is reused first.
    returned: VecDeque<CellId>,
}

impl Cells {
    #[inline]
    pub(super) fn get(&self, id: CellId) -> &Cell {
        let (chunk, at) = place(id);
        let cells = self.chunks[chunk].get_or_init(|| new_chunk(chunk));
        &cells[at]
    }

    /// Takes an unused cell for a name.
    pub(super) fn take(&self, name: Name) -> CellId {
        let id = lock(&self.unused).take();
        *lock(&self.get(id).name) = name;
        id
    }

    /// Returns a cell that no entry refers to.
    pub(super) fn give_back(&self, id: CellId) {
        lock(&self.unused).returned.push_back(id);
    }

    /// Returns the number of cells in use.
    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        let unused = lock(&self.unused);
        unused.next.get() as usize - 1 - unused.returned.len()
    }
}

impl Default for Unused {
    fn default() -> Self {
        Self {
            next: CellId::MIN,
            returned: VecDeque::new(),
        }
    }
}

impl Unused {
    fn take(&mut self) -> CellId {
        self.returned.pop_front().unwrap_or_else(|| {
            let id = self.next;
            // Memory ends long before. Beyond it, names would share the last cell.
            self.next = id.saturating_add(1);
            id
        })
    }
}

/// Returns the chunk of a cell and the cell's index in that chunk.
fn place(id: CellId) -> (usize, usize) {
    let at = u64::from(id.get() - 1) + u64::from(FIRST_CHUNK);
    let chunk = at.ilog2() - FIRST_CHUNK.ilog2();
    (
        chunk as usize,
        (at - (u64::from(FIRST_CHUNK) << chunk)) as usize,
    )
}

fn new_chunk(chunk: usize) -> Box<[Cell]> {
    let cells = (FIRST_CHUNK as usize) << chunk;
    (0..cells).map(|_| Cell::default()).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No foreign code runs under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> CellId {
        CellId::new(number).unwrap()
    }

    #[test]
    fn each_cell_has_a_place_of_its_own() {
        for (number, its_place) in [
            (1, (0, 0)),
            (64, (0, 63)),
            (65, (1, 0)),
            (192, (1, 127)),
            (193, (2, 0)),
        ] {
            assert_eq!(place(id(number)), its_place, "{number}");
        }
        assert!(place(CellId::MAX).0 < CHUNKS);
    }

    #[test]
    fn returned_cells_are_reused_oldest_first_and_keep_their_times() {
        let cells = Cells::default();
        let taken: Vec<_> = (0..3).map(|_| cells.take(Name::default())).collect();
        assert_eq!(taken, [1, 2, 3].map(id));
        cells.get(id(2)).raise(PurgeMode::Hard, 7);
        cells.give_back(id(2));
        cells.give_back(id(1));
        assert_eq!(cells.used(), 1);
        assert_eq!(cells.take(Name::default()), id(2));
        assert_eq!(cells.get(id(2)).last(PurgeMode::Hard), 7);
        assert_eq!(cells.get(id(2)).last(PurgeMode::Soft), 0);
    }
}
