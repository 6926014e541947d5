//! Aggregation of repeated denials into one record with a count.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use crate::core::time::Timestamp;

/// The maximum number of kinds of denials in open windows. Denials of further kinds are not
/// aggregated until a window ends.
const KINDS_MAX: usize = 1_024;

/// Aggregates denials by kind. The first denial of a kind opens a window and is emitted
/// immediately. Later denials in the window are counted, and the last of them represents all of
/// them when the window ends.
#[derive(Debug)]
pub(super) struct Folds<T> {
    window: Duration,
    kinds: HashMap<u64, FoldKind<T>>,
    /// The kinds, ordered by the start of their windows.
    order: VecDeque<(Timestamp, u64)>,
}

#[derive(Debug)]
struct FoldKind<T> {
    last: Option<T>,
    count: u64,
}

impl<T> Folds<T> {
    pub(crate) fn new(window: Duration) -> Self {
        Self {
            window,
            kinds: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// Adds a denial and returns it if it must be emitted immediately.
    pub(crate) fn offer(&mut self, kind: u64, denial: T, now: Timestamp) -> Option<T> {
        if let Some(known) = self.kinds.get_mut(&kind) {
            known.last = Some(denial);
            known.count += 1;
            return None;
        }
        if self.kinds.len() < KINDS_MAX {
            let first = FoldKind {
                last: None,
                count: 0,
            };
            self.kinds.insert(kind, first);
            self.order.push_back((now, kind));
        }
        Some(denial)
    }

    /// Removes and returns the next denial whose window has ended, with the number of denials it
    /// represents.
    pub(super) fn take_due(&mut self, now: Timestamp) -> Option<(T, u64)> {
        while self.next_due().is_some_and(|due| due <= now) {
            if let Some(folded) = self.take_oldest() {
                return Some(folded);
            }
        }
        None
    }

    /// Removes and returns a denial regardless of its window, with the number of denials it
    /// represents. For shutdown.
    pub(super) fn take_any(&mut self) -> Option<(T, u64)> {
        while !self.order.is_empty() {
            if let Some(folded) = self.take_oldest() {
                return Some(folded);
            }
        }
        None
    }

    /// Returns the end of the next window.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.order.front().map(|(began, _)| *began + self.window)
    }

    fn take_oldest(&mut self) -> Option<(T, u64)> {
        let (_, kind) = self.order.pop_front()?;
        let kind = self.kinds.remove(&kind)?;
        Some((kind.last?, kind.count))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    #[test]
    fn emits_the_first_denial_and_folds_repetitions_into_the_last() {
        let mut folds = Folds::new(WINDOW);
        assert_eq!(folds.offer(7, "first", at(0)), Some("first"));
        assert_eq!(folds.offer(7, "second", at(1)), None);
        assert_eq!(folds.offer(7, "third", at(9)), None);
        assert_eq!(folds.take_due(at(9)), None);
        assert_eq!(folds.take_due(at(10)), Some(("third", 2)));
        assert_eq!(folds.take_due(at(10)), None);
        assert_eq!(folds.offer(7, "fourth", at(10)), Some("fourth"));
        assert_eq!(
            folds.take_due(at(99)),
            None,
            "an emitted record is not a repetition"
        );
    }

    #[test]
    fn kinds_beyond_the_maximum_are_emitted_immediately() {
        let mut folds = Folds::new(WINDOW);
        for kind in 0..5_000 {
            assert!(folds.offer(kind, (), at(0)).is_some());
            assert_eq!(
                folds.offer(kind, (), at(0)).is_some(),
                kind >= KINDS_MAX as u64
            );
        }
        assert_eq!(folds.order.len(), KINDS_MAX);
    }

    proptest! {
        #[test]
        fn each_denial_is_emitted_or_counted_once(
            steps in prop::collection::vec((0_u64..5, 0_u64..4), 0..200)
        ) {
            let mut folds = Folds::new(WINDOW);
            let (mut now, mut accounted, offered) = (0, 0, steps.len() as u64);
            for (kind, later) in steps {
                now += later;
                while let Some((_, count)) = folds.take_due(at(now)) {
                    accounted += count;
                }
                accounted += u64::from(folds.offer(kind, (), at(now)).is_some());
            }
            while let Some((_, count)) = folds.take_any() {
                accounted += count;
            }
            prop_assert_eq!(accounted, offered);
            prop_assert!(folds.kinds.is_empty());
        }
    }
}
