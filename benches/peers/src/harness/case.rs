//! One row of one case: whose it is, and how it is measured.

use std::time::Duration;

/// Does the work as often as it is told.
pub type Run = Box<dyn FnMut(u64)>;

/// Does the work for so long, by the clock on the wall, and returns how often in a second.
pub type Rate = Box<dyn FnMut(Duration) -> f64>;

/// A row. Rows of one name are compared with each other.
pub struct Case {
    pub name: &'static str,
    pub who: Who,
    pub(super) measure: Measure,
    pub(super) is_whole: bool,
}

/// Whose row it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// What stands under a layer. Its cost is taken off every row whose name begins with its own.
    Bare,
    Ours,
    Peer(&'static str),
}

impl Who {
    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Ours => "ours",
            Self::Peer(name) => name,
        }
    }
}

/// What a gauge's value counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    /// Of one.
    Share,
    Commands,
}

pub(super) enum Measure {
    Time(Run),
    Rate(Rate),
    Gauge(Unit, Box<dyn FnOnce() -> f64>),
}

impl Case {
    pub fn bare(name: &'static str, run: Run) -> Self {
        Self::timed(name, Who::Bare, run)
    }

    pub fn ours(name: &'static str, run: Run) -> Self {
        Self::timed(name, Who::Ours, run)
    }

    pub fn peer(name: &'static str, peer: &'static str, run: Run) -> Self {
        Self::timed(name, Who::Peer(peer), run)
    }

    /// Makes a row of how much is done at once in a time: more is better.
    pub fn rate(name: &'static str, who: Who, rate: Rate) -> Self {
        Self {
            name,
            who,
            measure: Measure::Rate(rate),
            is_whole: true,
        }
    }

    /// Makes a row that is read once instead of timed.
    pub fn gauge(
        name: &'static str,
        who: Who,
        unit: Unit,
        read: impl FnOnce() -> f64 + 'static,
    ) -> Self {
        Self {
            name,
            who,
            measure: Measure::Gauge(unit, Box::new(read)),
            is_whole: true,
        }
    }

    /// Takes no bare service off this row's cost: there is none in it.
    pub fn whole(self) -> Self {
        Self {
            is_whole: true,
            ..self
        }
    }

    pub fn is_bare(&self) -> bool {
        self.who == Who::Bare
    }

    /// Makes a row of anyone's.
    pub fn timed(name: &'static str, who: Who, run: Run) -> Self {
        Self {
            name,
            who,
            measure: Measure::Time(run),
            is_whole: who == Who::Bare,
        }
    }
}
