//! The in-memory rate-limit store.

use crate::{
    core::{
        error::StoreErrorKind,
        store_api::{
            store_future::StoreFuture,
            store_key::{StoreKey, StoreKeys},
        },
        time::Timestamp,
    },
    rate_limit::{
        Policy, RateLimitStore,
        backend::{Charge, Decision, Decisions, Log, Refund, State},
    },
    store::memory::store::MemoryStore,
};

impl RateLimitStore for MemoryStore {
    fn keys(&self) -> &StoreKeys {
        &self.shared.rate_limit.keys
    }

    fn take(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions> {
        let limits = &self.shared.rate_limit;
        if let [charge] = charges
            && let Some((at, decision)) = limits.admit_known(partition, charge)
        {
            return StoreFuture::ready(Decisions::one(true, at, decision));
        }
        limits.take_at_length(partition, charges)
    }

    fn try_take_now(
        &self,
        partition: &StoreKey,
        charge: &Charge<'_>,
    ) -> Option<(Timestamp, Decision)> {
        self.shared.rate_limit.admit_known(partition, charge)
    }

    fn can_take_now(&self) -> bool {
        true
    }

    fn peek(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions> {
        StoreFuture::ready(self.shared.rate_limit.peek(partition, charges))
    }

    fn charge(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<()> {
        let limits = &self.shared.rate_limit;
        let charged = charges
            .iter()
            .map(|charge| limits.charge(partition, charge));
        // All policies are charged, even if one has no room.
        if charged.fold(true, |all, charged| all & charged) {
            StoreFuture::ready(())
        } else {
            StoreFuture::failed(StoreErrorKind::Full)
        }
    }

    fn refund(&self, partition: &StoreKey, refunds: &[Refund<'_>]) -> StoreFuture<()> {
        let limits = &self.shared.rate_limit;
        for Refund {
            policy,
            receipt,
            amount,
        } in refunds
        {
            if policy.requires_log() {
                let give_back = |log: &mut Log| policy.refund_log(log, *receipt, *amount);
                limits.logs.change_known(partition, policy.id(), give_back);
            } else {
                let give_back = |state, now| policy.refund(state, now, *receipt, *amount);
                limits.change_known(partition, policy, give_back);
            }
        }
        StoreFuture::ready(())
    }

    fn reset(&self, partition: &StoreKey, policies: &[&Policy]) -> StoreFuture<()> {
        let limits = &self.shared.rate_limit;
        for policy in policies {
            limits.change_known(partition, policy, |_, _| State::NONE);
            let clear = |log: &mut Log| *log = Log::default();
            limits.logs.change_known(partition, policy.id(), clear);
        }
        StoreFuture::ready(())
    }
}
