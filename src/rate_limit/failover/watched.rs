//! A limiter's store for background calls.

use std::sync::Arc;

use crate::{
    core::store_api::{
        store_future::StoreFuture,
        store_key::{StoreKey, StoreKeys},
        store_monitor::StoreWatch,
    },
    rate_limit::{
        decision::{charge::Charge, decision::Decisions},
        policy::policy::Policy,
        store::{RateLimitStore, Refund},
    },
};

/// A store whose failures are reported to the auditor.
#[derive(Debug)]
pub(super) struct BackgroundStore {
    store: Arc<dyn RateLimitStore>,
    watch: StoreWatch,
}

impl BackgroundStore {
    pub(crate) fn new(store: &Arc<dyn RateLimitStore>, watch: &StoreWatch) -> Self {
        Self {
            store: Arc::clone(store),
            watch: watch.clone(),
        }
    }

    /// Monitors a reply. No request waits for the reply, so no access-log record contains the call.
    fn over<T: 'static>(&self, reply: StoreFuture<T>) -> StoreFuture<T> {
        self.watch.over(reply, || None)
    }

    /// Monitors a reply to a charge or refund. A store that does not support settlement is not
    /// reported as failed.
    fn over_settlement(&self, reply: StoreFuture<()>) -> StoreFuture<()> {
        match self.store.can_settle() {
            true => self.over(reply),
            false => reply,
        }
    }
}

impl RateLimitStore for BackgroundStore {
    fn keys(&self) -> &StoreKeys {
        self.store.keys()
    }

    fn take(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions> {
        self.over(self.store.take(partition, charges))
    }

    fn peek(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions> {
        self.over(self.store.peek(partition, charges))
    }

    fn charge(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<()> {
        self.over_settlement(self.store.charge(partition, charges))
    }

    fn refund(&self, partition: &StoreKey, refunds: &[Refund<'_>]) -> StoreFuture<()> {
        self.over_settlement(self.store.refund(partition, refunds))
    }

    fn reset(&self, partition: &StoreKey, policies: &[&Policy]) -> StoreFuture<()> {
        self.over(self.store.reset(partition, policies))
    }

    fn can_settle(&self) -> bool {
        self.store.can_settle()
    }

    fn has_timeout(&self) -> bool {
        self.store.has_timeout()
    }
}
