//! Updates of keys.

use std::collections::BTreeMap;

use super::new_key;
use crate::{
    api_key::record::{constraints::Constraints, invalid::InvalidKeySpec, record::KeyRecord},
    core::{allowance::Allowance, time::Timestamp},
};

/// An update of a key. Settings that the update does not include remain unchanged.
///
/// ```
/// use portcullis::api_key::KeyUpdate;
///
/// let update = KeyUpdate::new()
///     .tier("pro")
///     .scopes(["data.read", "data.write"])
///     .if_version(3);
/// # let _ = update;
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct KeyUpdate {
    name: Option<Option<String>>,
    pub(crate) tier: Option<Option<String>>,
    credits: Option<Option<Allowance>>,
    limit: Option<Option<Allowance>>,
    pub(crate) scopes: Option<Vec<String>>,
    pub(crate) not_before: Option<Option<Timestamp>>,
    pub(crate) expires_at: Option<Option<Timestamp>>,
    metadata: BTreeMap<String, Option<String>>,
    pub(crate) constraints: Option<Constraints>,
    version: Option<u64>,
}

impl KeyUpdate {
    /// Creates an empty update.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the display name, or removes it with `None`.
    pub fn name<'a>(mut self, name: impl Into<Option<&'a str>>) -> Self {
        self.name = Some(name.into().map(str::to_owned));
        self
    }

    /// Sets the tier, or removes it with `None`. The limits of the new tier apply from the next
    /// request. The usage so far is not reset.
    pub fn tier<'a>(mut self, tier: impl Into<Option<&'a str>>) -> Self {
        self.tier = Some(tier.into().map(str::to_owned));
        self
    }

    /// Sets the credits, or removes them with `None`. The new amount applies from the next request.
    /// The usage in the current period is not reset.
    pub fn credits(mut self, credits: impl Into<Option<Allowance>>) -> Self {
        self.credits = Some(credits.into());
        self
    }

    /// Sets the limit that replaces the limit of the tier, or removes it with `None`.
    pub fn limit(mut self, limit: impl Into<Option<Allowance>>) -> Self {
        self.limit = Some(limit.into());
        self
    }

    /// Replaces all scopes.
    pub fn scopes<I>(mut self, scopes: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.scopes = Some(scopes.into_iter().map(Into::into).collect());
        self
    }

    /// Sets the time before which the key is not accepted, or removes it with `None`.
    pub fn not_before(mut self, from: impl Into<Option<Timestamp>>) -> Self {
        self.not_before = Some(from.into());
        self
    }

    /// Sets the time from which the key is no longer accepted, or removes it with `None`. This time
    /// does not extend a rotation overlap.
    pub fn expires_at(mut self, at: impl Into<Option<Timestamp>>) -> Self {
        self.expires_at = Some(at.into());
        self
    }

    /// Replaces all constraints.
    pub fn constraints(mut self, constraints: Constraints) -> Self {
        self.constraints = Some(constraints);
        self
    }

    /// Sets a metadata entry, or removes it with `None`.
    pub fn metadata<'a>(
        mut self,
        name: impl Into<String>,
        value: impl Into<Option<&'a str>>,
    ) -> Self {
        let value = value.into().map(str::to_owned);
        self.metadata.insert(name.into(), value);
        self
    }

    /// Makes the update conditional on this version of the key. If the key has another version, the
    /// update fails with [`KeyError::Conflict`](super::key_error::KeyError::Conflict).
    pub fn if_version(mut self, version: u64) -> Self {
        self.version = Some(version);
        self
    }

    /// Returns `true` if the update sets credits, a limit or metadata, which only the service can
    /// set.
    pub(super) fn sets_allowances(&self) -> bool {
        self.credits.is_some() || self.limit.is_some() || !self.metadata.is_empty()
    }

    /// Returns `true` if the update applies to this version of the record.
    pub(crate) fn is_for(&self, record: &KeyRecord) -> bool {
        self.version.is_none_or(|version| version == record.version)
    }

    pub(crate) fn apply(&self, record: &mut KeyRecord) -> Result<(), InvalidKeySpec> {
        let update = self.clone();
        if let Some(name) = update.name {
            record.name = name;
        }
        if let Some(tier) = update.tier {
            record.tier = tier;
        }
        if let Some(credits) = update.credits {
            record.credits = credits;
        }
        if let Some(limit) = update.limit {
            record.limit = limit;
        }
        if let Some(scopes) = update.scopes {
            record.scopes = scopes;
        }
        if let Some(from) = update.not_before {
            record.not_before = from;
        }
        if let Some(at) = update.expires_at {
            record.expires_at = at;
        }
        if let Some(constraints) = update.constraints {
            record.constraints = constraints;
        }
        for (name, value) in update.metadata {
            match value {
                Some(value) => drop(record.metadata.insert(name, value)),
                None => drop(record.metadata.remove(&name)),
            }
        }
        new_key::check_record(record)
    }
}
