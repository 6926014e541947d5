//! The action that a limiter takes while its store fails.

use std::{num::NonZeroU32, sync::Arc};

use super::failure_override::{FailureOverride, LocalStoreId};
use crate::{
    core::error::ConfigError,
    rate_limit::{policy::policy::Policy, store::RateLimitStore},
};

/// The action that a limiter takes while its store fails.
///
/// Call [`on_store_error`] to set the action for a limiter, or [`Policy::on_store_error`] to set
/// the action for a single policy. Defaults to [`Deny`](Self::Deny), because a limiter has no
/// second store by default. If a second store is set with [`local`](Self::local), a store outage
/// neither stops the service nor lifts all limits.
///
/// [`on_store_error`]: crate::rate_limit::RateLimitLayerBuilder::on_store_error
///
/// ```
/// use portcullis::{
///     ConfigError,
///     rate_limit::{OnStoreError, Partition, Policy, Quota, RateLimitLayer, RateLimitStore},
///     store::MemoryStore,
/// };
///
/// fn limits(server: impl RateLimitStore) -> Result<RateLimitLayer, ConfigError> {
///     // While the server fails, each of four instances admits 25 requests in a minute.
///     RateLimitLayer::builder(server, Partition::identity())
///         .policy(Policy::fixed_window("caller", Quota::per_minute(100))?)
///         .on_store_error(OnStoreError::local(MemoryStore::new(), 4))
///         .build()
/// }
/// # assert!(limits(MemoryStore::new()).is_ok());
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum OnStoreError {
    /// An in-process store decides. The quotas are divided by `share`. Created by
    /// [`local`](Self::local).
    Local {
        /// The store that decides.
        store: Arc<dyn RateLimitStore>,
        /// The number of instances that share the quota.
        share: u32,
    },
    /// Requests are admitted without limits.
    Allow,
    /// Requests are rejected with `503 Service Unavailable`.
    #[default]
    Deny,
}

impl OnStoreError {
    /// Uses a store in this process, such as a `MemoryStore`, to decide requests while the main
    /// store fails.
    ///
    /// `share` is the number of instances that share the quota, and must be at least 1. Each
    /// instance admits the limit divided by `share`, rounded up. The burst of a bucket is divided
    /// in the same way, and the rate of a bucket is divided exactly. With a share of 1, each
    /// instance admits the entire quota.
    ///
    /// The local store has no record of requests that were admitted before the failure. Once the
    /// main store decides a partition's requests again, the locally admitted requests that still
    /// count are charged to the main store in the background. Each amount is charged at most once:
    /// an amount is sent again only after [`Unavailable`](crate::StoreErrorKind::Unavailable),
    /// which means that the call had no effect.
    ///
    /// The local count remains until the charge is acknowledged and the main store still has quota
    /// left. Over any number of outages, a window therefore admits at most the limit plus one share
    /// per instance. This bound holds even if the main store replies to one call and then fails
    /// again, or loses charges. During outages, the local share of a bucket refills at one
    /// instance's rate.
    ///
    /// Background charges require a main store that can [charge](RateLimitStore::charge) and a
    /// local store that replies immediately, such as a `MemoryStore`. With other stores, the bound
    /// is the same, but locally admitted requests are not charged to the main store. The local
    /// count then remains until its window ends. If the local store fails too, the request is
    /// rejected with `503`.
    ///
    /// [`RateLimitLayerBuilder::build`](crate::rate_limit::RateLimitLayerBuilder::build) rejects a
    /// share of zero.
    pub fn local(store: impl RateLimitStore, share: u32) -> Self {
        Self::Local {
            store: Arc::new(store),
            share,
        }
    }

    /// Returns the local store, if there is one.
    pub(crate) fn store(&self) -> Option<&Arc<dyn RateLimitStore>> {
        match self {
            Self::Local { store, .. } => Some(store),
            Self::Allow | Self::Deny => None,
        }
    }

    /// Returns the number by which the quotas are divided, if there is a local store.
    ///
    /// # Errors
    ///
    /// Returns an error if the number is zero.
    pub(crate) fn share(&self) -> Result<Option<NonZeroU32>, ConfigError> {
        let Self::Local { share, .. } = self else {
            return Ok(None);
        };
        match NonZeroU32::new(*share) {
            Some(share) => Ok(Some(share)),
            None => {
                let problem = "the number of instances must be at least 1";
                let error = ConfigError::new("share", share, problem);
                Err(error.fix("set the number of instances that share the quota"))
            }
        }
    }

    /// Returns the equivalent rule for a single policy.
    fn as_override(&self) -> FailureOverride {
        match self {
            Self::Local { store, share } => FailureOverride::Local(LocalStoreId {
                address: Arc::as_ptr(store).addr(),
                share: *share,
            }),
            Self::Allow => FailureOverride::Allow,
            Self::Deny => FailureOverride::Deny,
        }
    }

    /// Checks a policy's rule against the limiter's handling of failures.
    ///
    /// # Errors
    ///
    /// Returns an error if the rule refers to a local store that is not the limiter's.
    pub(crate) fn check_override(&self, policy: &Policy) -> Result<(), ConfigError> {
        let own = policy.failure_override();
        let (Some(FailureOverride::Local(_)), true) = (own, own != Some(self.as_override())) else {
            return Ok(());
        };
        let value = format!("`Local` for policy `{}`", policy.name());
        let problem = "a policy can only use the local store of its limiter, which is another one";
        let error = ConfigError::new("on_store_error", value, problem);
        Err(error.fix("set `on_store_error` of the limiter to a clone of the same `OnStoreError`"))
    }
}

impl Policy {
    /// Overrides the limiter's [`OnStoreError`] for this policy. By default, the limiter's
    /// `OnStoreError` applies.
    ///
    /// The strictest rule among a request's policies applies. If one policy denies, the request is
    /// rejected. The request is admitted without a decision only if all policies allow it. Policies
    /// in [shadow mode](Self::shadow) are ignored.
    ///
    /// A policy has no local store of its own. To use the limiter's local store, pass a clone of
    /// the limiter's [`OnStoreError::local`].
    /// [`build`](crate::rate_limit::RateLimitLayerBuilder::build) rejects any other local store.
    ///
    /// ```
    /// use portcullis::rate_limit::{OnStoreError, Policy, Quota};
    ///
    /// // Paid requests always have a count. Bursts are not limited during an outage.
    /// let paid = Policy::calendar_month("paid", 50_000)?.on_store_error(OnStoreError::Deny);
    /// let burst = Policy::token_bucket("burst", Quota::per_second(10))?
    ///     .on_store_error(OnStoreError::Allow);
    /// # let _ = (paid, burst);
    /// # Ok::<(), portcullis::ConfigError>(())
    /// ```
    #[must_use]
    pub fn on_store_error(self, action: OnStoreError) -> Self {
        self.with_failure_override(action.as_override())
    }
}
