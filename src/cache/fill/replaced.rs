//! The stored responses that a newer response of the origin replaces or invalidates.

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

/// Stored responses that are outdated.
#[derive(Clone, Debug, Default)]
pub(crate) struct Replaced {
    entries: Vec<Stale>,
}

impl Replaced {
    pub(crate) fn new(stale: &Stale) -> Self {
        Self {
            entries: vec![stale.clone()],
        }
    }

    /// Adds other ones.
    pub(crate) fn and(mut self, others: Self) -> Self {
        self.entries.extend(others.entries);
        self
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Stale> {
        self.entries.iter()
    }

    /// Returns the entries that a response under this key and variant does not replace in the
    /// store.
    pub(crate) fn elsewhere(&self, key: &CacheKey, variant: &VariantId) -> Self {
        let entries = self.entries.iter();
        let elsewhere = entries.filter(|stale| !is_at(stale, key, variant));
        Self {
            entries: elsewhere.cloned().collect(),
        }
    }

    /// Ends their use, before a response under this key and variant is sent. Entries with another
    /// key or variant are removed, as they would not be replaced.
    pub(crate) fn make_way(
        &self,
        config: &Arc<Config>,
        key: &CacheKey,
        variant: &VariantId,
    ) -> StoreFuture<()> {
        self.hold(config, |stale| match is_at(stale, key, variant) {
            true => config.retain_stale_for,
            false => Duration::ZERO,
        })
    }

    /// Removes the entries from the store, unless they were replaced. They are never served again,
    /// not even in place of an error.
    pub(crate) fn invalidate(&self, config: &Arc<Config>) -> StoreFuture<()> {
        self.hold(config, |_| Duration::ZERO)
    }

    /// Requires validation by the origin at each further use, unless the entries were replaced.
    pub(crate) fn demote(&self, config: &Arc<Config>) -> StoreFuture<()> {
        self.hold(config, |_| config.retain_stale_for)
    }

    fn hold(&self, config: &Arc<Config>, retain: impl Fn(&Stale) -> Duration) -> StoreFuture<()> {
        let entries = self.entries.iter();
        all(entries.map(|stale| hold(config, stale, retain(stale))))
    }

    /// Removes the entries, in the background if the store does not reply at once, then calls
    /// `then`.
    pub(crate) fn invalidate_before(
        &self,
        config: &Arc<Config>,
        then: impl FnOnce() + Send + 'static,
    ) {
        if self.entries.is_empty() {
            return then();
        }
        let invalidated = config.keeping.bound(self.invalidate(config));
        match config.watch.over(invalidated, || None).into_ready() {
            ReadyOrPending::Ready(_) => then(),
            ReadyOrPending::Pending(pending) => config.spawn(Box::pin(async move {
                // If the store fails, it retains the entries until they expire.
                let _ = pending.await;
                then();
            })),
        }
    }
}

/// Returns `true` if a response under this key and variant replaces the entry in the store.
fn is_at(stale: &Stale, key: &CacheKey, variant: &VariantId) -> bool {
    stale.key == *key && stale.entry.variant == *variant
}

/// Makes an entry useless without validation, and limits the time for which it is retained.
fn hold(config: &Arc<Config>, stale: &Stale, retain: Duration) -> StoreFuture<()> {
    let mut entry = (*stale.entry).clone();
    entry.freshness = Freshness {
        lifetime_secs: 0,
        while_revalidate_secs: 0,
        if_error_secs: 0,
        always_validate: true,
        never_stale: true,
        ..entry.freshness
    };
    let touched = config.store.touch(Touch {
        key: stale.key,
        entry: Arc::new(entry),
        stamp: stale.stamp,
        fence: stale.fence,
        retain,
    });
    let touched = match touched.into_ready() {
        ReadyOrPending::Ready(touched) => touched.map(drop).into(),
        ReadyOrPending::Pending(pending) => StoreFuture::pending(async { pending.await.map(drop) }),
    };
    assured(config, touched, drop)
}

/// Waits for all writes. Returns the last error, if any failed.
fn all(writes: impl Iterator<Item = StoreFuture<()>>) -> StoreFuture<()> {
    let mut written = Ok(());
    let mut pending = Vec::new();
    for write in writes {
        match write.into_ready() {
            ReadyOrPending::Ready(result) => written = written.and(result),
            ReadyOrPending::Pending(write) => pending.push(write),
        }
    }
    if pending.is_empty() {
        return written.into();
    }
    StoreFuture::pending(async move {
        for write in pending {
            written = written.and(write.await);
        }
        written
    })
}
