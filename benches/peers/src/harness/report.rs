//! Prints a table, then one machine-readable line per figure.

use super::base::{base, paired, under};
use super::case::{Unit, Who};
use super::row::{Readings, Row, Sample};

/// Prints the measurements.
pub fn print(rows: &[Row]) {
    table(rows);
    println!();
    rows.iter()
        .filter(|row| row.who == Who::Ours)
        .for_each(|ours| figures(ours, rows));
}

fn table(rows: &[Row]) {
    println!(
        "{:<26} {:<24} {:>10} {:>10} {:>11} {:>8} {:>8} {:>10}",
        "case", "row", "median ns", "min ns", "above bare", "of bare", "allocs", "bytes"
    );
    let mut last = "";
    for row in rows {
        let name = if row.name == last { "" } else { row.name };
        last = row.name;
        println!("{name:<26} {:<24} {}", row.who.name(), cells(row, rows));
    }
}

fn cells(row: &Row, rows: &[Row]) -> String {
    let samples = match &row.readings {
        Readings::Timed(samples) => samples,
        Readings::Rates(rates) => {
            let (least, most) = (rates.iter().copied(), rates.iter().copied());
            return format!(
                "{:>10.0} per second, {:.0} to {:.0}",
                median(rates.clone()),
                least.fold(f64::INFINITY, f64::min),
                most.fold(0.0, f64::max),
            );
        }
        Readings::Gauge(Unit::Bytes, value) => return format!("{value:>10.1} bytes"),
        Readings::Gauge(Unit::Share, value) => return format!("{value:>10.4} of 1"),
        Readings::Gauge(Unit::Commands, value) => return format!("{value:>10.2} commands"),
    };
    let nanos = each(samples, |sample| sample.nanos);
    let (above, of) = match base(row, rows) {
        Some(bare) => (
            format!(
                "{:+.1}",
                median(paired(samples, bare, |row, bare| row.nanos - bare.nanos))
            ),
            format!(
                "{:.2}",
                median(paired(samples, bare, |row, bare| row.nanos / bare.nanos))
            ),
        ),
        None => ("-".into(), "-".into()),
    };
    format!(
        "{:>10.1} {:>10.1} {above:>11} {of:>8} {:>8.2} {:>10.0}",
        median(nanos.clone()),
        nanos.iter().copied().fold(f64::INFINITY, f64::min),
        median(each(samples, |sample| sample.allocations)),
        median(each(samples, |sample| sample.bytes)),
    )
}

/// Prints our figures of one case, and our ratio to each peer of it.
fn figures(ours: &Row, rows: &[Row]) {
    let bare = base(ours, rows);
    match &ours.readings {
        Readings::Timed(samples) => {
            // The time of a whole row includes the bare service; its allocations do not.
            let above = match under(ours, rows) {
                Some(bare) => paired(samples, bare, |ours, bare| {
                    ours.allocations - bare.allocations
                }),
                None => each(samples, |sample| sample.allocations),
            };
            println!("ALLOCS {} {:.2}", ours.name, median(above));
        }
        Readings::Rates(rates) => {
            println!("RATE {} {:.0}", ours.name, median(rates.clone()));
        }
        Readings::Gauge(Unit::Bytes, value) => println!("BYTES {} {value:.1}", ours.name),
        Readings::Gauge(Unit::Share, value) => println!("SHARE {} {value:.4}", ours.name),
        Readings::Gauge(Unit::Commands, value) => println!("COMMANDS {} {value:.2}", ours.name),
    }
    if let (Readings::Timed(samples), Some(bare)) = (&ours.readings, bare) {
        let to_bare = median(paired(samples, bare, |ours, bare| ours.nanos / bare.nanos));
        println!("RATIO {} bare {to_bare:.3}", ours.name);
    }
    for peer in rows
        .iter()
        .filter(|row| row.name == ours.name && row.who != Who::Ours)
    {
        match ratio(ours, peer, rows) {
            Some(ratio) => println!("RATIO {} {} {ratio:.3}", ours.name, peer.who.name()),
            None => println!("RATIO {} {} n/a", ours.name, peer.who.name()),
        }
        if let Some(overhead) = overhead(ours, peer, rows) {
            println!("OVERHEAD {} {} {overhead:.3}", ours.name, peer.who.name());
        }
    }
}

/// Returns the median of our cost above the bare service of the same case, divided by the peer's.
fn overhead(ours: &Row, peer: &Row, rows: &[Row]) -> Option<f64> {
    let is_bare = |row: &&Row| row.who == Who::Bare && row.name == ours.name;
    let bare = rows.iter().find(is_bare)?;
    if peer.who == Who::Bare {
        return None;
    }
    let (ours, peer) = (costs_above(ours, bare)?, costs_above(peer, bare)?);
    median_ratio(&ours, &peer)
}

fn costs_above(row: &Row, bare: &Row) -> Option<Vec<f64>> {
    match (&row.readings, &bare.readings) {
        (Readings::Timed(row), Readings::Timed(bare)) => {
            Some(paired(row, bare, |row, bare| row.nanos - bare.nanos))
        }
        (Readings::Timed(_) | Readings::Rates(_) | Readings::Gauge(..), _) => None,
    }
}

/// Returns the median of our cost divided by the peer's, or `None` if the peer's cost above its
/// bare service is within the noise.
fn ratio(ours: &Row, peer: &Row, rows: &[Row]) -> Option<f64> {
    median_ratio(&costs(ours, rows), &costs(peer, rows))
}

fn median_ratio(ours: &[f64], peer: &[f64]) -> Option<f64> {
    let measurable = peer.iter().filter(|cost| **cost > 0.0).count();
    if measurable * 4 < peer.len() * 3 {
        return None;
    }
    let pairs = ours.iter().zip(peer).filter(|(_, peer)| **peer > 0.0);
    Some(median(pairs.map(|(ours, peer)| ours / peer).collect()))
}

/// Returns the cost of a row per round, above its bare service if it has one.
fn costs(row: &Row, rows: &[Row]) -> Vec<f64> {
    match (&row.readings, base(row, rows)) {
        (Readings::Gauge(_, value), _) => vec![*value],
        (Readings::Rates(rates), _) => rates.clone(),
        (Readings::Timed(samples), None) => each(samples, |sample| sample.nanos),
        (Readings::Timed(samples), Some(bare)) => {
            paired(samples, bare, |row, bare| row.nanos - bare.nanos)
        }
    }
}

fn each(samples: &[Sample], of: impl Fn(&Sample) -> f64) -> Vec<f64> {
    samples.iter().map(of).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        (values[middle - 1] + values[middle]) / 2.0
    }
}
