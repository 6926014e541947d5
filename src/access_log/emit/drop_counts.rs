//! Counts of lost records.

use std::ops::{Add, Sub};

/// The number of lost records, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DropCounts {
    /// Records that were lost because the queue was full.
    pub queue_full: u64,
    /// Records that were lost because the store failed or timed out.
    pub store_failed: u64,
    /// Records that were lost because the writer failed.
    pub writer_failed: u64,
    /// Records that were lost because a sink panicked.
    pub panicked: u64,
}

impl DropCounts {
    /// Returns the total number of lost records.
    pub fn total(&self) -> u64 {
        self.each().map(|(_, lost)| lost).sum()
    }

    /// Returns the log name of each reason and the number of records that were lost for that
    /// reason.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("queue_full", self.queue_full),
            ("store_failed", self.store_failed),
            ("writer_failed", self.writer_failed),
            ("panicked", self.panicked),
        ]
        .into_iter()
    }
}

impl Add for DropCounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            queue_full: self.queue_full + other.queue_full,
            store_failed: self.store_failed + other.store_failed,
            writer_failed: self.writer_failed + other.writer_failed,
            panicked: self.panicked + other.panicked,
        }
    }
}

impl Sub for DropCounts {
    type Output = Self;

    /// Returns the losses since `earlier`.
    fn sub(self, earlier: Self) -> Self {
        Self {
            queue_full: self.queue_full.saturating_sub(earlier.queue_full),
            store_failed: self.store_failed.saturating_sub(earlier.store_failed),
            writer_failed: self.writer_failed.saturating_sub(earlier.writer_failed),
            panicked: self.panicked.saturating_sub(earlier.panicked),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_loss_counts_once() {
        let mut first = DropCounts::default();
        (first.queue_full, first.store_failed) = (1, 2);
        (first.writer_failed, first.panicked) = (4, 8);
        assert_eq!((first.total(), (first + first).total()), (15, 30));
        assert_eq!(
            (first + first - first, first - first - first),
            (first, DropCounts::default())
        );
    }
}
