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
    /// Decides by a store in this process, such as a `MemoryStore`, as long as the other fails.
    ///
    /// `share` is how many instances of the service share the quota. Each admits the limit divided
    /// by it, rounded up: one at least. Of a bucket the burst is divided so, and its rate exactly.
    /// Together the instances thus admit what they always do, and what was rounded up. With a share
    /// of 1 each admits the whole quota.
    ///
    /// The local store knows nothing of what was used before. What it has admitted meanwhile, and
    /// what still counts of that, the other is charged once, when it first answers for the partition
    /// again: no request is replayed, and the one that is answered so is admitted or not without
    /// it. That takes a store that can [charge](RateLimitStore::charge), and a local one that
    /// answers at once, such as a `MemoryStore`; with others, each turn of the failing store may
    /// give a client its quota anew. If the local store fails too, the request is turned away with
    /// `503`.
    ///
    /// A share of zero is refused by
    /// [`RateLimitLayerBuilder::build`](super::RateLimitLayerBuilder::build).
    pub fn local(store: impl RateLimitStore, share: u32) -> Self {
        Self::Local {
            store: Arc::new(store),
            share,
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
