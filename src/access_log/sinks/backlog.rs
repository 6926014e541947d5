//! A bounded queue of entries to store. The least important entries are lost first.

use std::collections::VecDeque;

use crate::access_log::{
    emit::{drop_counts::DropCounts, weight::Weight},
    store::LogEntry,
};

/// The memory of an entry in addition to its text.
const OVERHEAD_BYTES: usize = size_of::<LogEntry>() + 32;

/// The maximum number and bytes of waiting entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BacklogBounds {
    pub(super) max_entries: usize,
    pub(crate) max_bytes: usize,
}

impl BacklogBounds {
    /// Returns a fraction of the bounds, in eighths.
    fn eighths(self, eighths: usize) -> Self {
        Self {
            max_entries: self.max_entries * eighths / 8,
            max_bytes: self.max_bytes / 8 * eighths,
        }
    }
}

/// Entries that wait to be stored. Those that are being stored count as waiting.
#[derive(Debug)]
pub(super) struct Backlog {
    waiting: VecDeque<LogEntry>,
    /// The number of entries, including those that are being stored.
    entries: usize,
    bytes: usize,
    bounds: BacklogBounds,
    drop_counts: DropCounts,
}

impl Backlog {
    pub(crate) fn new(bounds: BacklogBounds) -> Self {
        Self {
            waiting: VecDeque::new(),
            entries: 0,
            bytes: 0,
            bounds,
            drop_counts: DropCounts::default(),
        }
    }

    /// Enqueues an entry, or counts it as lost.
    pub(crate) fn offer(&mut self, weight: Weight, entry: LogEntry) {
        let bounds = match weight {
            Weight::Routine => self.bounds.eighths(6),
            Weight::Important => self.bounds.eighths(7),
            Weight::Audit => self.bounds.eighths(1),
        };
        let cost = cost(&entry);
        if self.entries >= bounds.max_entries || self.bytes + cost > bounds.max_bytes {
            self.drop_counts.queue_full += 1;
            return;
        }
        self.entries += 1;
        self.bytes += cost;
        self.waiting.push_back(entry);
    }

    /// Removes and returns the oldest entries, at most `max_entries`.
    pub(crate) fn take(&mut self, max_entries: usize) -> Option<Vec<LogEntry>> {
        let count = self.waiting.len().min(max_entries);
        (count > 0).then(|| self.waiting.drain(..count).collect())
    }

    /// Removes the size of a stored batch.
    pub(crate) fn stored(&mut self, batch: &[LogEntry]) {
        self.entries -= batch.len();
        self.bytes -= batch.iter().map(cost).sum::<usize>();
    }

    /// Removes the size of a lost batch and counts its entries as lost.
    pub(crate) fn lost(&mut self, batch: &[LogEntry]) {
        self.stored(batch);
        self.drop_counts.store_failed += batch.len() as u64;
    }

    /// Returns a batch to the front of the queue, to be retried.
    pub(crate) fn put_back(&mut self, batch: Vec<LogEntry>) {
        for entry in batch.into_iter().rev() {
            self.waiting.push_front(entry);
        }
    }

    /// Returns the number of waiting entries, excluding those that are being stored.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn drop_counts(&self) -> DropCounts {
        self.drop_counts
    }
}

fn cost(entry: &LogEntry) -> usize {
    entry.json.len() + OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::time::Timestamp;

    fn entry(number: u64) -> LogEntry {
        LogEntry::new(Timestamp::from_micros(number), "{}")
    }

    fn roomy(max_entries: usize) -> Backlog {
        Backlog::new(BacklogBounds {
            max_entries,
            max_bytes: 1 << 20,
        })
    }

    #[test]
    fn less_important_records_are_dropped_first() {
        let mut backlog = roomy(16);
        for number in 0..20 {
            backlog.offer(Weight::Routine, entry(number));
        }
        assert_eq!(
            (backlog.waiting(), backlog.drop_counts().queue_full),
            (12, 8)
        );
        for number in 0..4 {
            backlog.offer(Weight::Important, entry(number));
        }
        assert_eq!(
            (backlog.waiting(), backlog.drop_counts().queue_full),
            (14, 10)
        );
    }

    #[test]
    fn audit_events_use_at_most_an_eighth_of_the_queue() {
        let mut backlog = roomy(16);
        for number in 0..3 {
            backlog.offer(Weight::Audit, entry(number));
        }
        assert_eq!(
            (backlog.waiting(), backlog.drop_counts().queue_full),
            (2, 1)
        );
    }

    #[test]
    fn bytes_are_bounded_as_entries_are() {
        let mut backlog = Backlog::new(BacklogBounds {
            max_entries: 1_000,
            max_bytes: 8_000,
        });
        for _ in 0..100 {
            backlog.offer(
                Weight::Routine,
                LogEntry::new(Timestamp::EPOCH, vec![b'x'; 900]),
            );
        }
        assert_eq!(backlog.waiting(), 6);
        assert_eq!(backlog.drop_counts().total(), 94);
    }

    proptest! {
        /// Steps: offer, take, store the oldest batch, put back the newest batch.
        #[test]
        fn backlog_counts_losses_and_preserves_order_without_duplicates(
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
                        stored.extend(batch);
                    },
                    _ => if let Some(batch) = taken.pop_back() {
                        backlog.put_back(batch);
                    },
                }
                prop_assert!(backlog.entries <= 12);
            }
            let in_flight: usize = taken.iter().map(|batch: &Vec<_>| batch.len()).sum();
            let accounted = stored.len() + in_flight + backlog.waiting();
            prop_assert_eq!(offered, accounted as u64 + backlog.drop_counts().total());
            prop_assert!(stored.is_sorted_by_key(|entry| entry.at));
            let held: usize = backlog.waiting.iter().map(cost).sum::<usize>()
                + taken.iter().flatten().map(cost).sum::<usize>();
            prop_assert_eq!(backlog.bytes, held);
        }
    }
}
