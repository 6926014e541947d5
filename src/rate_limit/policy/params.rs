//! A policy in numbers, for a store that decides elsewhere.

/// A policy in numbers: what a translation of the pure functions decides by.
///
/// | letter | algorithm | numbers |
/// |---|---|---|
/// | `w` `a` `m` `y` | fixed window: of the clock, from the first request, of the month, of the year | limit, window |
/// | `s` | sliding window | limit, window |
/// | `g` | sliding log | limit, window |
/// | `b` `l` `q` | token bucket, leaky bucket, leaky queue | burst, parts, interval, its parts, refill, its parts |
///
/// A time is in whole microseconds. Those of a bucket are no whole ones: `parts` says how many
/// parts a microsecond has, and "its parts" how many of them the time is longer. All numbers are
/// at most 2^53.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyParams {
    letter: char,
    numbers: [u64; 6],
}

impl PolicyParams {
    pub(crate) fn new(letter: char, numbers: [u64; 6]) -> Self {
        Self { letter, numbers }
    }

    /// Returns the letter that stands for the algorithm.
    pub fn letter(&self) -> char {
        self.letter
    }

    /// Returns the numbers; zero where the algorithm has no more.
    pub fn numbers(&self) -> [u64; 6] {
        self.numbers
    }
}
