//! The Redis rate-limit store.

use std::{iter, sync::Arc};

use smallvec::SmallVec;

use super::{
    deferred::{Fate, Report, Spent, may_defer},
    denied::CallContext,
    lease_call::LeaseCall,
    leases::divisor,
    question::{
        Ahead, COST_MAX, DecisionReply, LimitRequest, TakeOperation, log_keys, push_numbers,
        push_policy,
    },
    scripts::{Choice, RESET, Task, script_for},
};
use crate::{
    core::{
        error::{ConfigError, StoreError},
        store_api::{
            binary::BinaryWriter,
            store_future::StoreFuture,
            store_key::{StoreKey, StoreKeys},
        },
        time::Timestamp,
    },
    rate_limit::{
        Policy, RateLimitStore,
        backend::{Charge, Decisions, Refund},
    },
    store::redis::{
        connection::client::CallTurn,
        store::{RedisInner, RedisStore},
    },
};

/// The size of each policy in the arguments of refund.lua.
const REFUND_BYTES: usize = 73;

impl RedisStore {
    pub(super) fn limits_key(&self, partition: &StoreKey) -> Vec<u8> {
        self.shared.link.key("l", partition.as_bytes())
    }

    pub(super) fn begin_limit(&self, key: &[u8]) -> Result<CallTurn, StoreError> {
        let link = &self.shared.link;
        link.begin(key, link.timeouts().rate_limit)
    }

    /// Starts a decision by the server.
    pub(super) fn begin_decision(
        &self,
        partition: &StoreKey,
        charges: &[Charge<'_>],
        operation: TakeOperation,
    ) -> Result<impl Future<Output = Result<DecisionReply, StoreError>> + Send + use<>, StoreError>
    {
        let key = self.limits_key(partition);
        let turn = self.begin_limit(&key)?;
        Ok(self.ask(turn, LimitRequest::new(key, charges, operation)))
    }

    fn ask(
        &self,
        turn: CallTurn,
        question: LimitRequest,
    ) -> impl Future<Output = Result<DecisionReply, StoreError>> + Send + use<> {
        let batches = Arc::clone(&self.shared.rate_limit.batches);
        async move { batches.ask(turn, question).await }
    }
}

impl RateLimitStore for RedisStore {
    fn has_timeout(&self) -> bool {
        true
    }

    fn keys(&self) -> &StoreKeys {
        &self.shared.keys
    }

    fn check(&self, _: &[&Policy]) -> Result<(), ConfigError> {
        self.shared.server_check.note_limits();
        Ok(())
    }

    fn take(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions> {
        if let Some(carried) = self.after_carrying(partition, charges, Self::take) {
            return carried;
        }
        let now = self.shared.link.now();
        match self.take_locally(partition, charges, now) {
            Some(decided) => decided,
            None => self.take_remotely(partition, charges, now),
        }
    }

    fn peek(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions> {
        if let Some(carried) = self.after_carrying(partition, charges, Self::peek) {
            return carried;
        }
        match self.begin_decision(partition, charges, TakeOperation::Peek) {
            Ok(reply) => StoreFuture::pending(async move { Ok(reply.await?.decisions) }),
            Err(error) => StoreFuture::failed(error),
        }
    }

    fn charge(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<()> {
        if let Some(carried) = self.after_carrying(partition, charges, Self::charge) {
            return carried;
        }
        match self.begin_decision(partition, charges, TakeOperation::Charge) {
            Ok(reply) => StoreFuture::pending(async move { reply.await.map(drop) }),
            Err(error) => StoreFuture::failed(error),
        }
    }

    fn refund(&self, partition: &StoreKey, refunds: &[Refund<'_>]) -> StoreFuture<()> {
        let key = self.limits_key(partition);
        let turn = match self.begin_limit(&key) {
            Ok(turn) => turn,
            Err(error) => return StoreFuture::failed(error),
        };
        let choice = Choice::of(refunds.iter().map(|refund| refund.policy));
        let logs = log_keys(&key, refunds.iter().map(|refund| refund.policy));
        let keys: SmallVec<[&[u8]; 4]> =
            iter::once(&key).chain(&logs).map(|key| &key[..]).collect();
        let mut call = script_for(Task::GiveBack, choice).call(&keys);
        call.arg(pack_refunds(refunds));
        // Before and after, since a rejection that is being received can be older than the refund.
        let (shared, partition) = (Arc::clone(&self.shared), *partition);
        shared.rate_limit.denied.forget(&partition);
        StoreFuture::pending(async move {
            let refunded = turn.script(call).await;
            shared.rate_limit.denied.forget(&partition);
            refunded.map(drop)
        })
    }

    fn reset(&self, partition: &StoreKey, policies: &[&Policy]) -> StoreFuture<()> {
        let key = self.limits_key(partition);
        let turn = match self.begin_limit(&key) {
            Ok(turn) => turn,
            Err(error) => return StoreFuture::failed(error),
        };
        let logs = log_keys(&key, policies.iter().copied());
        let keys: SmallVec<[&[u8]; 4]> =
            iter::once(&key).chain(&logs).map(|key| &key[..]).collect();
        let mut call = RESET.call(&keys);
        for policy in policies {
            call.arg(&policy.id().to_le_bytes());
        }
        let (shared, partition) = (Arc::clone(&self.shared), *partition);
        shared.rate_limit.denied.forget(&partition);
        shared.rate_limit.leases.forget(&partition, policies);
        shared.rate_limit.deferred.forget(&partition, policies);
        StoreFuture::pending(async move {
            let reset = turn.script(call).await;
            shared.rate_limit.denied.forget(&partition);
            reset.map(drop)
        })
    }
}

impl RedisStore {
    /// Decides a request locally, with leased tokens, deferred charges, or a known rejection.
    /// Returns `None` if the server must decide.
    fn take_locally(
        &self,
        partition: &StoreKey,
        charges: &[Charge<'_>],
        now: Timestamp,
    ) -> Option<StoreFuture<Decisions>> {
        let limits = &self.shared.rate_limit;
        if divisor(charges) > 0
            && let Some(decisions) = limits.leases.spend(partition, charges, now)
        {
            return Some(StoreFuture::ready(decisions));
        }
        if may_defer(charges)
            && let Some(spent) = limits.deferred.spend(partition, charges, now)
        {
            return Some(self.report_if_due(*partition, spent));
        }
        let decisions = limits.denied.decide(partition, charges, now)?;
        self.shared.link.note_local_denial();
        Some(StoreFuture::ready(decisions))
    }

    /// Starts a background report of deferred charges, if a report is due.
    // In a future, because a report can be spawned only where it is polled.
    fn report_if_due(&self, partition: StoreKey, spent: Spent) -> StoreFuture<Decisions> {
        if !spent.is_due {
            return StoreFuture::ready(spent.decisions);
        }
        let shared = Arc::clone(&self.shared);
        StoreFuture::pending(async move {
            shared.report_in_background(partition);
            Ok(spent.decisions)
        })
    }

    /// Sends a request to the server, which decides it.
    fn take_remotely(
        &self,
        partition: &StoreKey,
        charges: &[Charge<'_>],
        now: Timestamp,
    ) -> StoreFuture<Decisions> {
        let (limits, divisor) = (&self.shared.rate_limit, divisor(charges));
        let asked = CallContext {
            at: now,
            gifts: limits.denied.gifts(),
            is_brief: divisor > 0 || charges.iter().any(|charge| charge.is_provisional),
        };
        if divisor > 0
            && let Some(ahead) = limits.leases.ask(partition, charges, divisor, now)
        {
            return self.lease(partition, charges, ahead, asked);
        }
        let may_defer = may_defer(charges);
        let operation = match may_defer {
            true => TakeOperation::TakeWithStates,
            false => TakeOperation::Take,
        };
        let reply = match self.begin_decision(partition, charges, operation) {
            Ok(reply) => reply,
            Err(error) => return StoreFuture::failed(error),
        };
        let deferred: SmallVec<[Policy; 2]> = match may_defer {
            false => SmallVec::new(),
            true => charges.iter().map(|charge| charge.policy.clone()).collect(),
        };
        let ids = charges.iter().map(|charge| charge.policy.id());
        let ids: SmallVec<[u64; 4]> = ids.collect();
        let (shared, partition) = (Arc::clone(&self.shared), *partition);
        StoreFuture::pending(async move {
            let reply = reply.await?;
            shared.learn(partition, &ids, deferred, &reply, asked);
            Ok(reply.decisions)
        })
    }

    /// Has the server decide a request, and leases tokens for later requests.
    pub(super) fn lease(
        &self,
        partition: &StoreKey,
        charges: &[Charge<'_>],
        ahead: Ahead,
        asked: CallContext,
    ) -> StoreFuture<Decisions> {
        let mut call = LeaseCall::new(&self.shared, *partition, ahead.number);
        let key = self.limits_key(partition);
        let reply = match self.begin_limit(&key) {
            Ok(turn) => self.ask(turn, LimitRequest::leasing(key, charges, &ahead)),
            Err(error) => {
                call.fate = Fate::NotCharged;
                return StoreFuture::failed(error);
            }
        };
        let ids = charges.iter().map(|charge| charge.policy.id());
        let ids: SmallVec<[u64; 4]> = ids.collect();
        StoreFuture::pending(async move {
            call.shared.tend();
            let reply = reply.await;
            let reply = reply.inspect_err(|error| call.fate = Fate::of(error))?;
            call.receive(&ids, &reply, asked.at);
            let (limits, now) = (&call.shared.rate_limit, call.shared.link.now());
            let known = ids.into_iter().zip(reply.states);
            limits
                .denied
                .learn(call.partition, known, &reply.decisions, asked, now);
            Ok(reply.decisions)
        })
    }
}

impl RedisInner {
    /// Stores the results from a reply: rejections, and the states of deferred policies.
    fn learn(
        self: &Arc<Self>,
        partition: StoreKey,
        ids: &[u64],
        deferred: SmallVec<[Policy; 2]>,
        reply: &DecisionReply,
        asked: CallContext,
    ) {
        let (limits, now) = (&self.rate_limit, self.link.now());
        if !deferred.is_empty() {
            let known = deferred.into_iter().zip(reply.states.iter().copied());
            let times = [reply.decisions.at(), asked.at, now];
            limits
                .deferred
                .learn(partition, &Report::new(), known, times);
            self.tend();
        }
        let known = ids.iter().copied().zip(reply.states.iter().copied());
        let decisions = &reply.decisions;
        limits.denied.learn(partition, known, decisions, asked, now);
    }
}

fn pack_refunds(refunds: &[Refund<'_>]) -> Vec<u8> {
    let mut packed = BinaryWriter::with_capacity(refunds.len() * REFUND_BYTES);
    for refund in refunds {
        push_policy(&mut packed, refund.policy);
        let receipt = refund.receipt.expires_at().as_micros();
        push_numbers(&mut packed, [receipt, refund.amount.min(COST_MAX)]);
        push_numbers(&mut packed, refund.policy.terms().numbers());
    }
    packed.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate_limit::{Quota, backend::Receipt};

    #[test]
    fn a_refund_takes_the_bytes_that_the_script_reads() {
        let policy = Policy::token_bucket("b", Quota::per_second(3)).unwrap();
        let refund = Refund::new(&policy, Receipt::default(), 1);
        let packed = pack_refunds(&[refund]);
        assert_eq!(packed.len(), REFUND_BYTES);
        let (front, terms) = packed.split_at(25);
        // The id and letter of the policy, the receipt and the amount.
        assert_eq!(
            front,
            b"Z\xe7\xc8(M\n\xeb\x99b\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xf0\x3f"
        );
        assert_eq!(terms[..8], 3.0_f64.to_le_bytes());
    }
}
