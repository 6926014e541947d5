//! One row of one case: its owner, and its measurement.

use std::time::Duration;

use super::clock::Spent;

/// Repeats the work the given number of times.
pub type Run = Box<dyn FnMut(u64)>;

/// Repeats the work the given number of times, and returns its total cost, on any thread.
pub type Meter = Box<dyn FnMut(u64) -> Spent>;

/// Repeats the work for a duration of wall-clock time, and returns the rate per second.
pub type Rate = Box<dyn FnMut(Duration) -> f64>;

/// A row. Rows with one name are compared with each other.
pub struct Case {
    pub name: &'static str,
    pub who: Who,
    pub(super) measure: Measure,
    pub(super) share: BareShare,
}

/// The owner of a row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The service inside a layer. Its cost is subtracted from every row that has its name as
    /// prefix.
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

/// The bare service in the cost of a row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum BareShare {
    /// Its cost is subtracted.
    TakenOff,
    /// Its time is included; its allocations are subtracted.
    LeftIn,
    /// The row has no bare service.
    None,
}

/// The unit of a gauge.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    /// A fraction of one.
    Share,
    Commands,
}

pub(super) enum Measure {
    Time(Meter),
    /// The sum of the costs of other rows of ours, each above its bare service.
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

    /// Creates a row of a rate. Higher is better.
    pub fn rate(name: &'static str, who: Who, rate: Rate) -> Self {
        Self {
            name,
            who,
            measure: Measure::Rate(rate),
            share: BareShare::LeftIn,
        }
    }

    /// Creates a row that is read once instead of timed.
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

    /// Excludes the row from the subtraction of a bare service.
    pub fn whole(self) -> Self {
        Self {
            share: BareShare::LeftIn,
            ..self
        }
    }

    pub fn is_bare(&self) -> bool {
        self.who == Who::Bare
    }

    /// Creates a row for any owner.
    pub fn timed(name: &'static str, who: Who, mut run: Run) -> Self {
        let meter = Box::new(move |iterations| {
            let before = Spent::by_this_thread();
            run(iterations);
            Spent::by_this_thread().since(before)
        });
        Self::metered(name, who, meter)
    }

    /// Creates a row that measures its own cost, because another thread does the work.
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

    /// Creates a row with the total cost of our rows `parts`, each above its bare service.
    ///
    /// It must follow its parts.
    pub fn sum(name: &'static str, who: Who, parts: &'static [&'static str]) -> Self {
        Self {
            name,
            who,
            measure: Measure::Sum(parts),
            share: BareShare::None,
        }
    }

    /// Returns the names of the rows in this sum.
    pub fn parts(&self) -> &'static [&'static str] {
        match self.measure {
            Measure::Sum(parts) => parts,
            Measure::Time(_) | Measure::Rate(_) | Measure::Gauge(..) => &[],
        }
    }
}
