//! One row of one case: whose it is, and how it is measured.

use std::time::Duration;

use super::clock::Spent;

/// Does the work as often as it is told.
pub type Run = Box<dyn FnMut(u64)>;

/// Does the work as often as it is told, and returns the cost of all of it, on whichever thread.
pub type Meter = Box<dyn FnMut(u64) -> Spent>;

/// Does the work for so long, by the clock on the wall, and returns how often in a second.
pub type Rate = Box<dyn FnMut(Duration) -> f64>;

/// A row. Rows of one name are compared with each other.
pub struct Case {
    pub name: &'static str,
    pub who: Who,
    pub(super) measure: Measure,
    pub(super) share: BareShare,
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

/// Whether the cost of a row has that of a bare service in it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum BareShare {
    /// It is taken off.
    TakenOff,
    /// It is left in; of the allocations, it is taken off.
    LeftIn,
    /// There is none.
    None,
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
    Time(Meter),
    /// The cost of other rows of ours together, each above its bare service.
    Sum(&'static [&'static str]),
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
            share: BareShare::LeftIn,
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
            share: BareShare::LeftIn,
        }
    }

    /// Takes no bare service off this row's cost: there is none in it.
    pub fn whole(self) -> Self {
        Self {
            share: BareShare::LeftIn,
            ..self
        }
    }

    pub fn is_bare(&self) -> bool {
        self.who == Who::Bare
    }

    /// Makes a row of anyone's.
    pub fn timed(name: &'static str, who: Who, mut run: Run) -> Self {
        let meter = Box::new(move |iterations| {
            let before = Spent::by_this_thread();
            run(iterations);
            Spent::by_this_thread().since(before)
        });
        Self::metered(name, who, meter)
    }

    /// Makes a row that reads its cost itself, because another thread does the work.
    pub fn metered(name: &'static str, who: Who, meter: Meter) -> Self {
        Self {
            name,
            who,
            measure: Measure::Time(meter),
            share: match who {
                Who::Bare => BareShare::LeftIn,
                Who::Ours | Who::Peer(_) => BareShare::TakenOff,
            },
        }
    }

    /// Makes a row that costs what our rows `parts` cost together, each above its bare service.
    ///
    /// It must stand behind its parts.
    pub fn sum(name: &'static str, who: Who, parts: &'static [&'static str]) -> Self {
        Self {
            name,
            who,
            measure: Measure::Sum(parts),
            share: BareShare::None,
        }
    }

    /// Returns the names of the rows whose cost this row adds up.
    pub fn parts(&self) -> &'static [&'static str] {
        match self.measure {
            Measure::Sum(parts) => parts,
            Measure::Time(_) | Measure::Rate(_) | Measure::Gauge(..) => &[],
        }
    }
}
