//! The memory budget of responses that are being stored.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;

use crate::core::time::Timestamp;

/// The number of bytes that all concurrent fills can hold.
///
/// The pieces of incomplete responses are registered here. If a fill needs bytes, fills older than
/// `max_time` are evicted, oldest first. Otherwise clients that stop reading could hold the whole
/// budget indefinitely.
pub(crate) struct Budget {
    taken_bytes: AtomicU64,
    max_bytes: u64,
    max_time: Duration,
    /// The open fills, by age.
    open: Mutex<BTreeMap<u64, Arc<Open>>>,
    opened: AtomicU64,
}

/// The pieces of an incomplete response.
#[derive(Debug)]
pub(crate) struct Open {
    number: u64,
    began_at: Timestamp,
    /// `None` once the fill is evicted.
    pieces: Mutex<Option<Vec<Bytes>>>,
}

impl Budget {
    pub(crate) fn new(max_bytes: u64, max_time: Duration) -> Self {
        Self {
            taken_bytes: AtomicU64::new(0),
            max_bytes,
            max_time,
            open: Mutex::default(),
            opened: AtomicU64::new(0),
        }
    }

    /// Takes bytes from the budget, evicting old fills if necessary. Returns `false` if there are
    /// too few.
    pub(crate) fn take(&self, bytes: u64, now: impl FnOnce() -> Timestamp) -> bool {
        self.take_free(bytes) || (self.reclaim(now()) && self.take_free(bytes))
    }

    pub(crate) fn give_back(&self, bytes: u64) {
        self.taken_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Registers the pieces of an incomplete response, whose bytes are already taken.
    pub(crate) fn open(&self, pieces: Vec<Bytes>, now: Timestamp) -> Arc<Open> {
        let open = Arc::new(Open {
            number: self.opened.fetch_add(1, Ordering::Relaxed),
            began_at: now,
            pieces: Mutex::new(Some(pieces)),
        });
        lock(&self.open).insert(open.number, Arc::clone(&open));
        open
    }

    /// Returns the pieces, unless the fill was evicted. Their bytes stay taken.
    pub(crate) fn close(&self, open: &Open) -> Option<Vec<Bytes>> {
        lock(&self.open).remove(&open.number);
        lock(&open.pieces).take()
    }

    /// Takes bytes if they are free.
    pub(super) fn take_free(&self, bytes: u64) -> bool {
        let taken = self.taken_bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = taken.saturating_add(bytes) <= self.max_bytes;
        if !fits {
            self.give_back(bytes);
        }
        fits
    }

    /// Evicts the fills that are older than `max_time`. Returns `true` if that freed any bytes.
    fn reclaim(&self, now: Timestamp) -> bool {
        let mut open = lock(&self.open);
        let mut freed_bytes = 0;
        while let Some(first) = open.first_entry() {
            if first.get().began_at + self.max_time > now {
                break;
            }
            let pieces = lock(&first.remove().pieces).take();
            freed_bytes += pieces.iter().flatten().map(Bytes::len).sum::<usize>();
        }
        self.give_back(freed_bytes as u64);
        freed_bytes > 0
    }
}

/// A piece of a response that is being stored.
pub(crate) enum Piece {
    Retained(Bytes),
    /// It has not arrived yet.
    Awaited,
    /// The fill was evicted.
    Gone,
}

impl Open {
    /// Returns a piece by its number.
    pub(crate) fn get(&self, number: usize) -> Piece {
        match lock(&self.pieces).as_ref() {
            None => Piece::Gone,
            Some(pieces) => match pieces.get(number) {
                Some(piece) => Piece::Retained(piece.clone()),
                None => Piece::Awaited,
            },
        }
    }

    /// Returns the number of pieces.
    pub(crate) fn len(&self) -> usize {
        lock(&self.pieces).as_ref().map_or(0, Vec::len)
    }

    pub(super) fn has_given_way(&self) -> bool {
        lock(&self.pieces).is_none()
    }

    /// Adds a piece, whose bytes are already taken. Returns `false` if the fill was evicted.
    pub(crate) fn push(&self, piece: Bytes) -> bool {
        let mut pieces = lock(&self.pieces);
        pieces.as_mut().map(|pieces| pieces.push(piece)).is_some()
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget")
            .field("taken_bytes", &self.taken_bytes)
            .field("max_bytes", &self.max_bytes)
            .field("max_time", &self.max_time)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each holder leaves a consistent state, even if it panics.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const NOW: Timestamp = Timestamp::from_secs(1_000);

    fn piece(len: usize) -> Vec<Bytes> {
        vec![Bytes::from(vec![0; len])]
    }

    #[test]
    fn a_spent_budget_gives_nothing_until_some_is_given_back() {
        let budget = Budget::new(10, MINUTE);
        assert!(budget.take(6, || NOW));
        assert!(!budget.take(5, || NOW));
        assert!(budget.take(4, || NOW));
        budget.give_back(6);
        assert!(budget.take(6, || NOW));
    }

    #[test]
    fn an_old_fill_is_evicted_if_another_needs_its_bytes() {
        let budget = Budget::new(10, MINUTE);
        assert!(budget.take(6, || NOW));
        let old = budget.open(piece(6), NOW);
        assert!(budget.take(4, || NOW));
        let young = budget.open(piece(4), NOW + MINUTE / 2);
        assert!(!budget.take(1, || NOW + MINUTE / 2));
        assert!(old.push(Bytes::new()));

        assert!(budget.take(6, || NOW + MINUTE));
        assert!(!old.push(Bytes::new()), "it was evicted");
        assert_eq!(budget.close(&old), None);
        assert!(!budget.take(1, || NOW + MINUTE));
        assert_eq!(budget.close(&young), Some(piece(4)));
        assert!(
            !budget.take(1, || NOW + MINUTE * 9),
            "its bytes are still taken"
        );
        budget.give_back(10);
        assert!(budget.take(10, || NOW));
    }

    #[test]
    fn no_fill_is_evicted_while_bytes_are_free() {
        let budget = Budget::new(10, MINUTE);
        assert!(budget.take(6, || NOW));
        let old = budget.open(piece(6), NOW);
        assert!(budget.take(4, || NOW + MINUTE * 9));
        assert_eq!(budget.close(&old), Some(piece(6)));
    }
}
