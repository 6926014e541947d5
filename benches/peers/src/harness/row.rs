//! A row with what was measured of it.

use std::iter::Sum;
use std::ops::Sub;

use super::case::{BareShare, Unit, Who};

/// The cost of one operation, averaged over one batch.
#[derive(Clone, Copy)]
pub struct Sample {
    pub nanos: f64,
    pub allocations: f64,
    pub bytes: f64,
}

impl Sub for Sample {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            nanos: self.nanos - other.nanos,
            allocations: self.allocations - other.allocations,
            bytes: self.bytes - other.bytes,
        }
    }
}

impl Sum for Sample {
    fn sum<I: Iterator<Item = Self>>(samples: I) -> Self {
        let none = Self {
            nanos: 0.0,
            allocations: 0.0,
            bytes: 0.0,
        };
        samples.fold(none, |sum, sample| Self {
            nanos: sum.nanos + sample.nanos,
            allocations: sum.allocations + sample.allocations,
            bytes: sum.bytes + sample.bytes,
        })
    }
}

/// A row with what was measured of it.
pub struct Row {
    pub name: &'static str,
    pub who: Who,
    pub(super) share: BareShare,
    pub readings: Readings,
}

pub enum Readings {
    /// One sample for each round; the same place in two rows is the same round.
    Timed(Vec<Sample>),
    /// The rate per second, likewise.
    Rates(Vec<f64>),
    Gauge(Unit, f64),
}
