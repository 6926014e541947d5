//! Numeric parameters of policies, for stores that decide outside this process.

/// The numeric parameters of a policy, for stores that reimplement its decisions.
///
/// | Letter | Algorithm | Numbers |
/// |---|---|---|
/// | `w` `a` `m` `y` | fixed window: clock-aligned (`w`), from the first request (`a`), calendar month (`m`), calendar year (`y`) | limit, window |
/// | `s` | sliding window | limit, window |
/// | `g` | sliding log | limit, window |
/// | `b` `l` `q` | token bucket, leaky bucket, leaky queue | burst, parts, interval, its parts, refill, its parts |
///
/// Times are in whole microseconds. The times of a bucket also have fractions: `parts` is the
/// number of parts in one microsecond, and each "its parts" is the number of parts in addition to
/// the whole microseconds. All numbers are at most 2^53.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyParams {
    letter: char,
    numbers: [u64; 6],
}

impl PolicyParams {
    pub(crate) fn new(letter: char, numbers: [u64; 6]) -> Self {
        Self { letter, numbers }
    }

    /// Returns the letter that identifies the algorithm.
    pub fn letter(&self) -> char {
        self.letter
    }

    /// Returns the numbers, padded with zeros.
    pub fn numbers(&self) -> [u64; 6] {
        self.numbers
    }
}
