//! The handling of requests while a limiter's store fails.

use std::{num::NonZeroU32, sync::Arc};

use super::failure_override::{FailureOverride, LocalStoreId};
use crate::{
    core::error::ConfigError,
    rate_limit::{policy::policy::Policy, store::RateLimitStore},
};

/// The handling of requests while a limiter's store fails.
///
/// Set by [`on_store_error`] for a limiter, and by [`Policy::on_store_error`] for one of its
/// policies. Defaults to [`Deny`](Self::Deny), because a limiter has no second store. With one, set
/// by [`local`](Self::local), an outage of the store neither stops the service nor lifts all
/// limits.
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
    /// A store in this process decides, by quotas divided by `share`. Created by
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
    /// Decides by a store in this process, such as a `MemoryStore`, while the main store fails.
    ///
    /// `share` is the number of instances that share the quota, at least 1. Each instance admits
    /// the limit divided by it, rounded up. The burst of a bucket is divided in the same way, and
    /// its rate is divided exactly. With a share of 1, each instance admits the whole quota.
    ///
    /// The local store does not know the requests that were admitted before. Once the main store
    /// decides for a partition again, it is charged in the background for the requests that the
    /// local store admitted and that still count. It is charged at most once: an amount is sent
    /// again only after [`Unavailable`](crate::StoreErrorKind::Unavailable), which means that the
    /// call had no effect.
    ///
    /// The local count remains until the charge is acknowledged and the main store still has quota
    /// left. Over any number of outages a window therefore admits at most the limit and one share
    /// per instance, even if the main store replies to one call and then fails again, or loses
    /// charges. The local share of a bucket refills during the outages at the rate of one instance.
    ///
    /// Charges require a main store that can [charge](RateLimitStore::charge), and a local store
    /// that replies immediately, such as a `MemoryStore`. With others the bound is the same, but
    /// the requests that were admitted locally are not charged, and the local count remains until
    /// its window ends. If the local store fails too, the request is rejected with `503`.
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

    /// Returns the number that divides the quotas, if there is a local store.
    ///
    /// # Errors
    ///
    /// Returns an error if it is zero.
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

    /// Returns the same as the rule of one policy.
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

    /// Checks the rule of one policy of a limiter that handles failures in this way.
    ///
    /// # Errors
    ///
    /// Returns an error if it names a local store that is not the limiter's.
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
    /// Overrides the limiter's [`OnStoreError`] for this policy. Defaults to the limiter's.
    ///
    /// The strictest of a request's policies applies: if one denies, the request is rejected, and
    /// it is admitted without a decision only if all allow it. Policies in [shadow
    /// mode](Self::shadow) are ignored.
    ///
    /// A policy has no local store of its own. To use the limiter's, pass a clone of the limiter's
    /// [`OnStoreError::local`]. [`build`](crate::rate_limit::RateLimitLayerBuilder::build) rejects
    /// any other.
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
