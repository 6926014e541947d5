//! A store that is watched over, for what a limiter asks it beside a request.

use std::sync::Arc;

use super::{
    charge::Charge,
    decision::Decisions,
    policy::Policy,
    store::{RateLimitStore, Refund},
};
use crate::{
    store_future::StoreFuture, store_key::StoreKey, store_key::StoreKeys, store_watch::StoreWatch,
};

/// A store of which the auditor hears when it stops answering, whoever asks.
#[derive(Debug)]
pub(super) struct Watched {
    store: Arc<dyn RateLimitStore>,
    watch: StoreWatch,
}

impl Watched {
    pub(super) fn new(store: &Arc<dyn RateLimitStore>, watch: &StoreWatch) -> Self {
        Self {
            store: Arc::clone(store),
            watch: watch.clone(),
        }
    }

    /// No request's record is told: it waits for none of this.
    fn over<T: 'static>(&self, answer: StoreFuture<T>) -> StoreFuture<T> {
        self.watch.over(answer, || None)
    }
}

impl RateLimitStore for Watched {
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
        let answer = self.store.charge(partition, charges);
        match self.store.can_settle() {
            true => self.over(answer),
            // It cannot, and that it says so is no failure.
            false => answer,
        }
    }

    fn refund(&self, partition: &StoreKey, refunds: &[Refund<'_>]) -> StoreFuture<()> {
        let answer = self.store.refund(partition, refunds);
        match self.store.can_settle() {
            true => self.over(answer),
            false => answer,
        }
    }

    fn reset(&self, partition: &StoreKey, policies: &[&Policy]) -> StoreFuture<()> {
        self.over(self.store.reset(partition, policies))
    }

    fn can_settle(&self) -> bool {
        self.store.can_settle()
    }

    fn has_deadline(&self) -> bool {
        self.store.has_deadline()
    }
}
