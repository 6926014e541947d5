//! Decisions and the algorithms that make them.

pub(super) mod algorithm;
pub(super) mod charge;
pub(super) mod decision;
