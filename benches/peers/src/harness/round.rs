//! Rounds: each runs every row once, in turn, so that disturbances affect all rows.

use std::time::Duration;

use super::base;
use super::case::{BareShare, Case, Measure, Meter, Rate, Unit, Who};
use super::row::{Readings, Row, Sample};

/// The number of rounds, and the time of each row in a round.
#[derive(Clone, Copy)]
pub struct Effort {
    rounds: usize,
    batch_nanos: u64,
    /// The same for rows that need more time to reach a steady state.
    rate_rounds: usize,
    rate_for: Duration,
}

impl Effort {
    // Short batches and many rounds, so that compared batches are close in time.
    pub const FULL: Self = Self {
        rounds: 201,
        batch_nanos: 4_000_000,
        rate_rounds: 31,
        rate_for: Duration::from_millis(300),
    };
    pub const QUICK: Self = Self {
        rounds: 7,
        batch_nanos: 1_000_000,
        rate_rounds: 3,
        rate_for: Duration::from_millis(50),
    };
}

/// Runs the rounds, then reads the gauges; returns the rows in the order of `cases`.
pub fn measure(cases: Vec<Case>, effort: Effort) -> Vec<Row> {
    let mut started: Vec<_> = cases
        .into_iter()
        .map(|case| Started::new(case, effort))
        .collect();
    for round in 0..effort.rounds.max(effort.rate_rounds) {
        // In alternating order, so that the previous row varies.
        let run = |row: &mut Started| row.run_once(round, effort);
        if round % 2 == 0 {
            started.iter_mut().for_each(run);
        } else {
            started.iter_mut().rev().for_each(run);
        }
    }
    // Gauges run last, because one that fills the memory slows the allocator down.
    let mut rows = Vec::with_capacity(started.len());
    for row in started {
        let row = row.finish(&rows);
        rows.push(row);
    }
    rows
}

struct Started {
    name: &'static str,
    who: Who,
    share: BareShare,
    work: Work,
}

enum Work {
    Timed {
        run: Meter,
        iterations: u64,
        samples: Vec<Sample>,
    },
    Rated {
        rate: Rate,
        rates: Vec<f64>,
    },
    Gauge {
        unit: Unit,
        read: Box<dyn FnOnce() -> f64>,
    },
    Sum(&'static [&'static str]),
}

impl Started {
    fn new(case: Case, effort: Effort) -> Self {
        let Case {
            name,
            who,
            measure,
            share,
        } = case;
        let work = match measure {
            Measure::Gauge(unit, read) => Work::Gauge { unit, read },
            Measure::Sum(parts) => Work::Sum(parts),
            Measure::Rate(mut rate) => {
                // Warm-up.
                rate(effort.rate_for);
                Work::Rated {
                    rate,
                    rates: Vec::with_capacity(effort.rate_rounds),
                }
            }
            Measure::Time(mut run) => {
                let iterations = calibrate(&mut run, effort.batch_nanos);
                Work::Timed {
                    run,
                    iterations,
                    samples: Vec::with_capacity(effort.rounds),
                }
            }
        };
        Self {
            name,
            who,
            share,
            work,
        }
    }

    fn run_once(&mut self, round: usize, effort: Effort) {
        match &mut self.work {
            Work::Timed {
                run,
                iterations,
                samples,
            } if round < effort.rounds => samples.push(sample(run, *iterations)),
            Work::Rated { rate, rates } if round < effort.rate_rounds => {
                rates.push(rate(effort.rate_for));
            }
            Work::Timed { .. } | Work::Rated { .. } | Work::Gauge { .. } | Work::Sum(_) => {}
        }
    }

    /// Returns the row. `before` are the rows that precede it.
    fn finish(self, before: &[Row]) -> Row {
        let Self {
            name,
            who,
            share,
            work,
        } = self;
        let readings = match work {
            Work::Timed { samples, .. } => Readings::Timed(samples),
            Work::Rated { rates, .. } => Readings::Rates(rates),
            Work::Gauge { unit, read } => Readings::Gauge(unit, read()),
            Work::Sum(parts) => Readings::Timed(base::sum(parts, before)),
        };
        Row {
            name,
            who,
            share,
            readings,
        }
    }
}

/// Returns the number of operations that fill a batch, and warms the row up.
fn calibrate(run: &mut Meter, batch_nanos: u64) -> u64 {
    let mut iterations = 16;
    loop {
        // The minimum of several, so that a one-time cost does not shorten every batch.
        let nanos = (0..4)
            .map(|_| sample(run, iterations).nanos)
            .fold(f64::INFINITY, f64::min);
        let fitting = (batch_nanos as f64 / nanos) as u64;
        if fitting <= iterations * 2 {
            return fitting.max(1);
        }
        iterations *= 2;
    }
}

fn sample(run: &mut Meter, iterations: u64) -> Sample {
    let spent = run(iterations);
    let per_operation = |total: u64| total as f64 / iterations as f64;
    Sample {
        nanos: per_operation(spent.nanos),
        allocations: per_operation(spent.allocations),
        bytes: per_operation(spent.bytes),
    }
}
