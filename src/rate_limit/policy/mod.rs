//! Policies and their quotas.

pub(super) mod carry;
mod counting;
pub(super) mod overrides;
pub(super) mod params;
pub(super) mod policy;
mod policy_id;
pub(super) mod policy_set;
pub(super) mod policy_sets;
pub(super) mod quota;
#[cfg(feature = "governor")]
pub(super) mod quota_governor;
#[cfg(feature = "serde")]
pub(super) mod quota_serde;
pub(super) mod quota_text;
pub(super) mod spec;
pub(super) mod sync_mode;
pub(super) mod tiers;
