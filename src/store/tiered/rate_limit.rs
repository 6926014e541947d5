//! The tiered store's rate limits, which are counted on the server that all instances share.

use super::store::TieredStore;
use crate::{
    core::store_api::{
        store_future::StoreFuture,
        store_key::{StoreKey, StoreKeys},
    },
    rate_limit::{
        Policy, RateLimitStore,
        backend::{Charge, Decisions, Refund},
    },
};

impl RateLimitStore for TieredStore {
    fn keys(&self) -> &StoreKeys {
        RateLimitStore::keys(&self.far)
    }

    fn has_timeout(&self) -> bool {
        RateLimitStore::has_timeout(&self.far)
    }

    fn charge(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<()> {
        self.far.charge(partition, charges)
    }

    fn take(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions> {
        self.far.take(partition, charges)
    }

    fn peek(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions> {
        self.far.peek(partition, charges)
    }

    fn refund(&self, partition: &StoreKey, refunds: &[Refund<'_>]) -> StoreFuture<()> {
        self.far.refund(partition, refunds)
    }

    fn reset(&self, partition: &StoreKey, policies: &[&Policy]) -> StoreFuture<()> {
        self.far.reset(partition, policies)
    }
}
