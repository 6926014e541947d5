//! A stored response that a newer response of the origin replaces or invalidates.

use std::{sync::Arc, time::Duration};

use crate::{
    cache::{
        config::Config,
        entry::key::CacheKey,
        http::{freshness::Freshness, vary::VariantId},
        lookup::{assured::assured, look::Stale},
        store::Touch,
    },
    core::store_api::store_future::{ReadyOrPending, StoreFuture},
};

/// A stored response that is outdated.
#[derive(Clone, Debug)]
pub(crate) struct Replaced {
    stale: Stale,
}

impl Replaced {
    pub(crate) fn new(stale: &Stale) -> Self {
        Self {
            stale: stale.clone(),
        }
    }

    /// Returns `true` if a response under this key and variant replaces the entry in the store.
    pub(crate) fn is_at(&self, key: &CacheKey, variant: &VariantId) -> bool {
        self.stale.key == *key && self.stale.entry.variant == *variant
    }

    /// Ends its use, before a response under this key and variant is sent or stored. If the new
    /// response has another key or variant, the entry is removed, as it would not be replaced.
    pub(super) fn make_way(
        &self,
        config: &Arc<Config>,
        key: &CacheKey,
        variant: &VariantId,
    ) -> StoreFuture<()> {
        config.keeping.bound(match self.is_at(key, variant) {
            true => self.demote(config),
            false => self.invalidate(config),
        })
    }

    /// Removes the entry from the store, unless it was replaced. It is never served again, not even
    /// in place of an error.
    pub(crate) fn invalidate(&self, config: &Arc<Config>) -> StoreFuture<()> {
        self.hold(config, Duration::ZERO)
    }

    /// Requires validation by the origin at each further use, unless the entry was replaced.
    pub(crate) fn demote(&self, config: &Arc<Config>) -> StoreFuture<()> {
        self.hold(config, config.retain_stale_for)
    }

    fn hold(&self, config: &Arc<Config>, retain: Duration) -> StoreFuture<()> {
        let mut entry = (*self.stale.entry).clone();
        entry.freshness = Freshness {
            lifetime_secs: 0,
            while_revalidate_secs: 0,
            if_error_secs: 0,
            always_validate: true,
            never_stale: true,
            ..entry.freshness
        };
        let touched = config.store.touch(Touch {
            key: self.stale.key,
            entry: Arc::new(entry),
            stamp: self.stale.stamp,
            fence: self.stale.fence,
            retain,
        });
        let touched = match touched.into_ready() {
            ReadyOrPending::Ready(touched) => touched.map(drop).into(),
            ReadyOrPending::Pending(pending) => {
                StoreFuture::pending(async { pending.await.map(drop) })
            }
        };
        assured(config, touched, drop)
    }

    /// Removes the entry, in the background if the store does not reply at once, then calls `then`.
    pub(crate) fn invalidate_before(
        &self,
        config: &Arc<Config>,
        then: impl FnOnce() + Send + 'static,
    ) {
        let invalidated = config.keeping.bound(self.invalidate(config));
        match config.watch.over(invalidated, || None).into_ready() {
            ReadyOrPending::Ready(_) => then(),
            ReadyOrPending::Pending(pending) => config.spawn(Box::pin(async move {
                // If the store fails, it retains the entry until that expires.
                let _ = pending.await;
                then();
            })),
        }
    }
}
