//! The bare service of a row, and the costs above it.

use super::case::{BareShare, Who};
use super::row::{Readings, Row, Sample};

/// Returns the bare service of a case: the longest of `bare` that is a prefix of its name, in whole
/// path segments.
pub fn base_of<'a>(name: &str, bare: &[&'a str]) -> Option<&'a str> {
    let is_under = |base: &str| {
        name.strip_prefix(base)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    bare.iter()
        .copied()
        .filter(|base| is_under(base))
        .max_by_key(|base| base.len())
}

/// Returns the bare service whose cost is subtracted from a row.
pub(super) fn base<'a>(row: &Row, rows: &'a [Row]) -> Option<&'a [Sample]> {
    match row.share {
        BareShare::TakenOff => under(row, rows),
        BareShare::LeftIn | BareShare::None => None,
    }
}

/// Returns the bare service of a row, whether or not its cost is subtracted.
pub(super) fn under<'a>(row: &Row, rows: &'a [Row]) -> Option<&'a [Sample]> {
    if row.share == BareShare::None {
        return None;
    }
    let bare = || rows.iter().filter(|row| row.who == Who::Bare);
    let name = base_of(row.name, &bare().map(|row| row.name).collect::<Vec<_>>())?;
    bare()
        .filter(|row| row.name == name)
        .find_map(|row| timed(&row.readings))
}

/// Adds up, per round, the costs of our rows `parts` above their bare services.
pub(super) fn sum(parts: &[&str], rows: &[Row]) -> Vec<Sample> {
    let costs: Vec<_> = parts.iter().map(|part| above(part, rows)).collect();
    let rounds = costs.iter().map(Vec::len).min().unwrap_or_default();
    let total = |round| costs.iter().map(|cost: &Vec<Sample>| cost[round]).sum();
    (0..rounds).map(total).collect()
}

fn above(name: &str, rows: &[Row]) -> Vec<Sample> {
    let row = rows
        .iter()
        .find(|row| row.name == name && row.who == Who::Ours)
        .expect("a sum follows its parts");
    let samples = timed(&row.readings).expect("parts of a sum are timed");
    match under(row, rows) {
        Some(bare) => paired(samples, bare, |row, bare| *row - *bare),
        None => samples.to_vec(),
    }
}

fn timed(readings: &Readings) -> Option<&[Sample]> {
    match readings {
        Readings::Timed(samples) => Some(samples),
        Readings::Rates(_) | Readings::Gauge(..) => None,
    }
}

pub(super) fn paired<T>(
    samples: &[Sample],
    others: &[Sample],
    of: impl Fn(&Sample, &Sample) -> T,
) -> Vec<T> {
    samples
        .iter()
        .zip(others)
        .map(|(sample, other)| of(sample, other))
        .collect()
}
