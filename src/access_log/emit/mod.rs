//! Selection of the records to emit.

pub(super) mod drop_counts;
pub(super) mod emit;
pub(super) mod fold;
pub(super) mod level;
pub(super) mod observer;
pub(super) mod sample;
pub(super) mod stats;
pub(super) mod weight;
