//! The latest entries, within bounds.

use std::collections::VecDeque;

use crate::access_log::store::{LogEntry, LogQuery};

/// What an entry takes beside its text: its place in the ring, and its share of the allocator.
const OVERHEAD_BYTES: usize = size_of::<LogEntry>() + 32;

/// The latest entries, bounded in number and in bytes: the oldest goes first.
#[derive(Debug)]
pub(crate) struct Ring {
    entries: VecDeque<LogEntry>,
    bytes: usize,
    entries_max: usize,
    max_bytes: usize,
}

impl Ring {
    /// Creates an empty ring.
    pub(crate) fn new(entries_max: usize, max_bytes: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: 0,
            entries_max,
            max_bytes,
        }
    }

    /// Keeps an entry, and forgets the oldest where there is no room. One that is larger than the
    /// whole ring is not kept.
    pub(crate) fn push(&mut self, entry: LogEntry) {
        let cost = cost(&entry);
        if cost > self.max_bytes || self.entries_max == 0 {
            return;
        }
        while self.entries.len() >= self.entries_max || self.bytes + cost > self.max_bytes {
            let Some(oldest) = self.entries.pop_front() else {
                break;
            };
            self.bytes -= self::cost(&oldest);
        }
        self.bytes += cost;
        self.entries.push_back(entry);
    }

    /// Forgets all entries.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    /// Returns the entries that a query asks for, the latest first.
    #[cfg_attr(
        not(feature = "memory"),
        allow(dead_code, reason = "the store in memory alone is queried")
    )]
    pub(crate) fn recent(&self, query: &LogQuery) -> Vec<LogEntry> {
        self.latest_first()
            .filter(|entry| query.covers(entry.at))
            .take(query.limit)
            .cloned()
            .collect()
    }

    /// Returns all entries, the latest first.
    pub(crate) fn latest_first(&self) -> impl Iterator<Item = &LogEntry> {
        self.entries.iter().rev()
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

    fn entry(at: u64, bytes: usize) -> LogEntry {
        LogEntry::new(Timestamp::from_micros(at), vec![b'x'; bytes])
    }

    #[test]
    fn a_query_bounds_number_and_time() {
        let mut ring = Ring::new(10, 10_000);
        (0..6).for_each(|at| ring.push(entry(at, 1)));
        let query = LogQuery::latest(2)
            .since(Timestamp::from_micros(1))
            .until(Timestamp::from_micros(4));
        let times: Vec<_> = ring
            .recent(&query)
            .iter()
            .map(|entry| entry.at.as_micros())
            .collect();
        assert_eq!(times, [4, 3]);
    }

    proptest! {
        #[test]
        fn the_latest_stay_and_both_bounds_hold(
            sizes in prop::collection::vec(0_usize..300, 0..60),
            entries_max in 1_usize..9,
            max_bytes in 1_usize..2_000,
        ) {
            let mut ring = Ring::new(entries_max, max_bytes);
            let mut model: Vec<LogEntry> = Vec::new();
            for (at, size) in sizes.into_iter().enumerate() {
                let entry = entry(at as u64, size);
                ring.push(entry.clone());
                if cost(&entry) <= max_bytes {
                    model.push(entry);
                }
                while model.len() > entries_max || model.iter().map(cost).sum::<usize>() > max_bytes {
                    model.remove(0);
                }
                prop_assert_eq!(ring.bytes, model.iter().map(cost).sum::<usize>());
                prop_assert!(ring.latest_first().eq(model.iter().rev()));
            }
        }
    }
}
