//! What a limiter does with a request when its store fails.

use std::{num::NonZeroU32, sync::Arc};

use super::store::RateLimitStore;
use crate::error::ConfigError;

/// What a limiter does with a request when its store fails.
///
/// A limiter knows no store but the one that it was given, and so has none to fall back on:
/// [`Deny`](Self::Deny) is the default until a second one is named by [`local`](Self::local). Then
/// an outage of the store is not an outage of the service, and not the end of all limits either.
///
/// ```
/// use portcullis::{
///     rate_limit::{OnStoreError, Partition, Policy, Quota, RateLimitLayer, RateLimitStore},
///     store::MemoryStore,
/// };
///
/// # fn limits(server: impl RateLimitStore) -> Result<RateLimitLayer, portcullis::ConfigError> {
/// // Four instances of this service share the quota: each admits 25 on its own.
/// RateLimitLayer::builder(server, Partition::identity())
///     .policy(Policy::fixed_window("caller", Quota::per_minute(100))?)
///     .on_store_error(OnStoreError::local(MemoryStore::new(), 4))
///     .build()
/// # }
/// # assert!(limits(MemoryStore::new()).is_ok());
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum OnStoreError {
    /// Decides by a store in this process, on quotas that are divided by `share`; from
    /// [`local`](Self::local).
    Local {
        /// The store that is asked in the place of the one that failed.
        store: Arc<dyn RateLimitStore>,
        /// How many instances share the quota.
        share: u32,
    },
    /// Lets it pass, unlimited.
    Allow,
    /// Turns it away with `503`.
    #[default]
    Deny,
}

impl OnStoreError {
    /// Decides by a store in this process, such as a `MemoryStore`, while the other fails.
    ///
    /// `share` is the number of instances that share the quota, at least 1. Each instance admits the
    /// limit divided by it, rounded up. Of a bucket the burst is divided in this way, and its rate
    /// exactly. With a share of 1 each instance admits the whole quota.
    ///
    /// The local store does not know the requests that were admitted before. Once the other store
    /// decides for a partition again, it is charged in the background for the requests that the
    /// local store admitted and that still count. It is charged at most once: an amount is sent
    /// again only after [`Unavailable`](crate::StoreErrorKind::Unavailable), which means that nothing
    /// was done.
    ///
    /// The local count stays until the charge is acknowledged and the store still has something
    /// left. Over any number of outages a window therefore admits at most the limit and one share
    /// for each instance, even if the store answers one call and then fails again, or loses charges.
    /// Of a bucket the local share refills during the outages at the rate of one instance.
    ///
    /// Charges take a store that can [charge](RateLimitStore::charge), and a local store that
    /// answers at once, such as a `MemoryStore`. With others the bound is the same, but the
    /// requests that were admitted locally are not charged, and the local count stays until its
    /// window ends. If the local store fails too, the request is rejected with `503`.
    ///
    /// A share of zero is refused by
    /// [`RateLimitLayerBuilder::build`](super::RateLimitLayerBuilder::build).
    pub fn local(store: impl RateLimitStore, share: u32) -> Self {
        Self::Local {
            store: Arc::new(store),
            share,
        }
    }

    /// Returns the local store, if there is one.
    pub(super) fn store(&self) -> Option<&Arc<dyn RateLimitStore>> {
        match self {
            Self::Local { store, .. } => Some(store),
            Self::Allow | Self::Deny => None,
        }
    }

    /// Returns by what the quotas are divided, if there is somebody to decide on such.
    ///
    /// # Errors
    ///
    /// If it is zero.
    pub(super) fn share(&self) -> Result<Option<NonZeroU32>, ConfigError> {
        match self {
            Self::Local { share, .. } => match NonZeroU32::new(*share) {
                Some(share) => Ok(Some(share)),
                None => Err(ConfigError::new(
                    "share",
                    share,
                    "a quota that no instance has a share of cannot be divided",
                )
                .fix("give the number of instances that share the quota, at least 1")),
            },
            Self::Allow | Self::Deny => Ok(None),
        }
    }
}
