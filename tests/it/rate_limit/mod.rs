//! Rate limits.

#[cfg(feature = "axum")]
pub(super) mod axum;
pub(super) mod brownout;
pub(super) mod change;
pub(super) mod chosen;
#[cfg(feature = "test-util")]
pub(super) mod conformance;
pub(super) mod extremes;
pub(super) mod failure;
pub(super) mod fields;
pub(super) mod hidden;
pub(super) mod penalty;
pub(super) mod queue;
pub(super) mod rate_limit;
pub(super) mod regressions;
pub(super) mod settle;
