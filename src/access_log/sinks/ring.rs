//! A bounded buffer of the latest entries.

use std::collections::VecDeque;

use crate::access_log::store::{LogEntry, LogQuery};

/// The memory of an entry in addition to its text: its slot in the ring and allocator overhead.
const OVERHEAD_BYTES: usize = size_of::<LogEntry>() + 32;

/// The latest entries, bounded by number and bytes. The oldest is evicted first.
#[derive(Debug)]
pub(crate) struct Ring {
    entries: VecDeque<LogEntry>,
    bytes: usize,
    max_entries: usize,
    max_bytes: usize,
}

impl Ring {
    /// Creates an empty ring.
    pub(crate) fn new(max_entries: usize, max_bytes: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: 0,
            max_entries,
            max_bytes,
        }
    }

    /// Adds an entry and evicts the oldest ones if necessary. Discards an entry that is larger than
    /// the whole ring.
    pub(crate) fn push(&mut self, entry: LogEntry) {
        let cost = cost(&entry);
        if cost > self.max_bytes || self.max_entries == 0 {
            return;
        }
        while self.entries.len() >= self.max_entries || self.bytes + cost > self.max_bytes {
            let Some(oldest) = self.entries.pop_front() else {
                break;
            };
            self.bytes -= self::cost(&oldest);
        }
        self.bytes += cost;
        self.entries.push_back(entry);
    }

    /// Removes all entries.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    /// Returns the entries that match a query, latest first.
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

    /// Returns all entries, latest first.
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
            max_entries in 1_usize..9,
            max_bytes in 1_usize..2_000,
        ) {
            let mut ring = Ring::new(max_entries, max_bytes);
            let mut model: Vec<LogEntry> = Vec::new();
            for (at, size) in sizes.into_iter().enumerate() {
                let entry = entry(at as u64, size);
                ring.push(entry.clone());
                if cost(&entry) <= max_bytes {
                    model.push(entry);
                }
                let bytes = |model: &[LogEntry]| model.iter().map(cost).sum::<usize>();
                while model.len() > max_entries || bytes(&model) > max_bytes {
                    model.remove(0);
                }
                prop_assert_eq!(ring.bytes, model.iter().map(cost).sum::<usize>());
                prop_assert!(ring.latest_first().eq(model.iter().rev()));
            }
        }
    }
}
