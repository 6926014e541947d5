//! Caching options for one route or one response.

pub(super) mod policy;
pub(super) mod policy_probe;
