//! Entries that wait to be stored, within bounds: what matters least is lost first.

use std::collections::VecDeque;

use super::{
    losses::Losses,
    store::{LogEntry, Trail},
    weight::Weight,
};

/// What an entry takes beside its text.
const OVERHEAD_BYTES: usize = size_of::<LogEntry>() + 32;

/// How many, and how many bytes of, entries may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) entries_max: usize,
    pub(super) bytes_max: usize,
}

impl Bounds {
    /// Returns a share of the bounds, in eighths.
    fn eighths(self, eighths: usize) -> Self {
        Self {
            entries_max: self.entries_max * eighths / 8,
            bytes_max: self.bytes_max / 8 * eighths,
        }
    }
}

/// Entries of one trail that have been taken out to be stored.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) trail: Trail,
    pub(super) entries: Vec<LogEntry>,
}

/// Entries that wait to be stored. Those that are being stored count as waiting.
#[derive(Debug)]
pub(super) struct Backlog {
    access: Line,
    audit: Line,
    bounds: Bounds,
    losses: Losses,
}

impl Backlog {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            access: Line::default(),
            audit: Line::default(),
            bounds,
            losses: Losses::default(),
        }
    }

    /// Takes an entry in, or counts it as lost.
    pub(super) fn offer(&mut self, weight: Weight, entry: LogEntry) {
        let (line, bounds) = match weight {
            Weight::Routine => (&mut self.access, self.bounds.eighths(6)),
            Weight::Important => (&mut self.access, self.bounds.eighths(7)),
            Weight::Audit => (&mut self.audit, self.bounds.eighths(1)),
        };
        if !line.push(entry, bounds) {
            self.losses.queue_full += 1;
        }
    }

    /// Takes out the oldest entries, auditors' first.
    pub(super) fn take(&mut self, entries_max: usize) -> Option<Batch> {
        let (trail, line) = if self.audit.waiting.is_empty() {
            (Trail::Access, &mut self.access)
        } else {
            (Trail::Audit, &mut self.audit)
        };
        let entries = line.take(entries_max);
        (!entries.is_empty()).then_some(Batch { trail, entries })
    }

    /// Forgets a batch that was stored.
    pub(super) fn stored(&mut self, batch: &Batch) {
        self.line(batch.trail).forget(&batch.entries);
    }

    /// Forgets a batch that the store lost.
    pub(super) fn lost(&mut self, batch: &Batch) {
        self.line(batch.trail).forget(&batch.entries);
        self.losses.store_failed += batch.entries.len() as u64;
    }

    /// Puts a batch back in front, to be tried again.
    pub(super) fn put_back(&mut self, batch: Batch) {
        let line = self.line(batch.trail);
        for entry in batch.entries.into_iter().rev() {
            line.waiting.push_front(entry);
        }
    }

    /// Returns how many entries wait and are not being stored.
    pub(super) fn waiting(&self) -> usize {
        self.access.waiting.len() + self.audit.waiting.len()
    }

    pub(super) fn losses(&self) -> Losses {
        self.losses
    }

    fn line(&mut self, trail: Trail) -> &mut Line {
        match trail {
            Trail::Access => &mut self.access,
            Trail::Audit => &mut self.audit,
        }
    }
}

/// The entries of one trail.
#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<LogEntry>,
    /// How many there are, those that are being stored included.
    entries: usize,
    bytes: usize,
}

impl Line {
    fn push(&mut self, entry: LogEntry, bounds: Bounds) -> bool {
        let cost = cost(&entry);
        if self.entries >= bounds.entries_max || self.bytes + cost > bounds.bytes_max {
            return false;
        }
        self.entries += 1;
        self.bytes += cost;
        self.waiting.push_back(entry);
        true
    }

    fn take(&mut self, entries_max: usize) -> Vec<LogEntry> {
        let count = self.waiting.len().min(entries_max);
        self.waiting.drain(..count).collect()
    }

    fn forget(&mut self, entries: &[LogEntry]) {
        self.entries -= entries.len();
        self.bytes -= entries.iter().map(cost).sum::<usize>();
    }
}

fn cost(entry: &LogEntry) -> usize {
    entry.json.len() + OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::time::Timestamp;

    fn entry(number: u64) -> LogEntry {
        LogEntry::new(Timestamp::from_micros(number), "{}")
    }

    fn roomy(entries_max: usize) -> Backlog {
        Backlog::new(Bounds {
            entries_max,
            bytes_max: 1 << 20,
        })
    }

    #[test]
    fn what_matters_less_is_lost_first_and_audit_has_room_of_its_own() {
        let mut backlog = roomy(16);
        for number in 0..20 {
            backlog.offer(Weight::Routine, entry(number));
        }
        assert_eq!((backlog.waiting(), backlog.losses().queue_full), (12, 8));
        for number in 0..4 {
            backlog.offer(Weight::Important, entry(number));
        }
        assert_eq!((backlog.waiting(), backlog.losses().queue_full), (14, 10));
        for number in 0..3 {
            backlog.offer(Weight::Audit, entry(number));
        }
        assert_eq!((backlog.waiting(), backlog.losses().queue_full), (16, 11));
    }

    #[test]
    fn bytes_are_bounded_as_entries_are() {
        let mut backlog = Backlog::new(Bounds {
            entries_max: 1_000,
            bytes_max: 8_000,
        });
        for _ in 0..100 {
            backlog.offer(
                Weight::Routine,
                LogEntry::new(Timestamp::EPOCH, vec![b'x'; 900]),
            );
        }
        assert_eq!(backlog.waiting(), 6);
        assert_eq!(backlog.losses().total(), 94);
    }

    #[test]
    fn auditors_events_are_stored_before_the_rest_and_in_batches_of_their_own() {
        let mut backlog = roomy(80);
        backlog.offer(Weight::Routine, entry(1));
        backlog.offer(Weight::Audit, entry(2));
        let first = backlog.take(10).unwrap();
        assert_eq!((first.trail, first.entries), (Trail::Audit, vec![entry(2)]));
        let second = backlog.take(10).unwrap();
        assert_eq!(
            (second.trail, second.entries),
            (Trail::Access, vec![entry(1)])
        );
        assert!(backlog.take(10).is_none());
    }

    proptest! {
        /// Steps: offer, take, and one of three ends of the batch taken first.
        #[test]
        fn nothing_is_lost_uncounted_nothing_stands_twice_and_order_is_kept(
            steps in prop::collection::vec((0_u8..5, 1_usize..4), 0..200)
        ) {
            let mut backlog = roomy(16);
            let (mut offered, mut stored, mut taken) = (0_u64, Vec::new(), VecDeque::new());
            for (step, count) in steps {
                match step {
                    0 | 1 => {
                        backlog.offer(Weight::Routine, entry(offered));
                        offered += 1;
                    }
                    2 => taken.extend(backlog.take(count)),
                    3 => if let Some(batch) = taken.pop_front() {
                        backlog.stored(&batch);
                        stored.extend(batch.entries);
                    },
                    _ => if let Some(batch) = taken.pop_back() {
                        backlog.put_back(batch);
                    },
                }
                prop_assert!(backlog.access.entries <= 12);
            }
            let in_flight: usize = taken.iter().map(|batch: &Batch| batch.entries.len()).sum();
            let accounted = stored.len() + in_flight + backlog.waiting();
            prop_assert_eq!(offered, accounted as u64 + backlog.losses().total());
            prop_assert!(stored.is_sorted_by_key(|entry| entry.at));
            let held: usize = backlog.access.waiting.iter().map(cost).sum::<usize>()
                + taken.iter().flat_map(|batch| &batch.entries).map(cost).sum::<usize>();
            prop_assert_eq!(backlog.access.bytes, held);
        }
    }
}
