//! The policies for each tier of callers.

use super::policy::Policy;
use crate::core::error::ConfigError;

/// The policies for each tier of callers.
///
/// The tier is that of the caller's [`Identity`](crate::Identity). The policies of the fallback
/// tier apply to callers without a tier or with an unknown tier.
///
/// ```
/// use std::time::Duration;
/// use portcullis::rate_limit::{Policy, Quota, Tiers};
///
/// let in_ten_seconds = |limit| Quota::new(limit, Duration::from_secs(10));
/// let tiers = Tiers::new("free")
///     .tier("free", [Policy::fixed_window("free", in_ten_seconds(10))?])
///     .tier("pro", [Policy::fixed_window("pro", in_ten_seconds(100))?])
///     .unlimited("internal");
/// assert!(tiers.contains("pro"));
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
///
/// If a caller's tier changes, the caller's count continues under the new tier if the policies of
/// both tiers [share a count](Policy#sharing-a-count). Otherwise, a new count starts.
#[derive(Clone, Debug)]
pub struct Tiers {
    pub(super) fallback: String,
    pub(super) tiers: Vec<(String, Vec<Policy>)>,
}

impl Tiers {
    /// Creates a list of tiers. `fallback` is the tier that applies to callers whose own tier is
    /// not in the list.
    pub fn new(fallback: impl Into<String>) -> Self {
        Self {
            fallback: fallback.into(),
            tiers: Vec::new(),
        }
    }

    /// Adds a tier and the policies that apply to its callers.
    #[must_use]
    pub fn tier(
        mut self,
        name: impl Into<String>,
        policies: impl IntoIterator<Item = Policy>,
    ) -> Self {
        self.tiers
            .push((name.into(), policies.into_iter().collect()));
        self
    }

    /// Adds a tier without policies. Policies for all requests still apply to its callers.
    #[must_use]
    pub fn unlimited(self, name: impl Into<String>) -> Self {
        self.tier(name, [])
    }

    /// Returns `true` if the list contains a tier with this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tiers.iter().any(|(tier, _)| tier == name)
    }

    /// Returns an iterator over the names of the tiers, in the order in which the tiers were added.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tiers.iter().map(|(tier, _)| tier.as_str())
    }

    pub(super) fn check_names(&self) -> Result<(), ConfigError> {
        let names: Vec<&str> = self.names().collect();
        let mut each = names.iter().enumerate();
        let Some((_, twin)) = each.find(|(at, name)| names[..*at].contains(name)) else {
            return Ok(());
        };
        let error = ConfigError::new("tiers", twin, "the tier is listed twice");
        Err(error.fix("pass all policies of a tier in one call"))
    }
}
