//! The rate_limit part of the store on Redis.

use std::{
    iter,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use smallvec::SmallVec;

use super::{
    batches::Batches,
    carried::Carried,
    debts::{Debts, Fate, Report, Spent, may_owe},
    denied::{CallContext, Denied},
    leases::{Granted, Leases, Return, divisor},
    question::{
        Ahead, COST_MAX, DecisionReply, Question, Wish, log_keys, push_numbers, push_policy,
    },
    scripts::{Choice, RESET, Task, script_for},
};
use crate::{
    core::{
        error::{ConfigError, StoreError},
        runtime::Runtime,
        store_api::{
            store_future::StoreFuture,
            store_key::{StoreKey, StoreKeys},
        },
        time::Timestamp,
    },
    rate_limit::{Charge, Decisions, Policy, RateLimitStore, Refund},
    store::redis::{
        connection::client::{Link, Turn},
        store::{RedisStore, Shared},
    },
};

/// What each policy takes of the arguments of refund.lua.
pub(super) const REFUND_BYTES: usize = 73;

/// The state of the limits in this process.
#[derive(Debug)]
pub(crate) struct Part {
    denied: Denied,
    leases: Leases,
    debts: Debts,
    batches: Arc<Batches>,
    pub(super) carried: Carried,
    /// Whether a task looks for what lies idle, and what is late to be told.
    is_tended: AtomicBool,
}

impl Part {
    pub(crate) fn new(link: &Arc<Link>, _: &StoreKeys) -> Self {
        Self {
            denied: Denied::new(link.denials_max()),
            leases: Leases::new(),
            debts: Debts::default(),
            batches: Batches::new(link, link.batch_max()),
            carried: Carried::default(),
            is_tended: AtomicBool::new(false),
        }
    }
}

impl RedisStore {
    pub(super) fn limits_key(&self, partition: &StoreKey) -> Vec<u8> {
        self.shared.link.key("l", partition.as_bytes())
    }

    pub(super) fn begin_limit(&self, key: &[u8]) -> Result<Turn, StoreError> {
        let link = &self.shared.link;
        link.begin(key, link.deadlines().rate_limit)
    }

    /// Begins a decision.
    fn begin_decision(
        &self,
        partition: &StoreKey,
        charges: &[Charge<'_>],
        wish: Wish,
    ) -> Result<impl Future<Output = Result<DecisionReply, StoreError>> + Send + use<>, StoreError>
    {
        let key = self.limits_key(partition);
        let turn = self.begin_limit(&key)?;
        Ok(self.ask(turn, Question::new(key, charges, wish)))
    }

    fn ask(
        &self,
        turn: Turn,
        question: Question,
    ) -> impl Future<Output = Result<DecisionReply, StoreError>> + Send + use<> {
        let batches = Arc::clone(&self.shared.rate_limit.batches);
        async move { batches.ask(turn, question).await }
    }
}

impl RateLimitStore for RedisStore {
    fn has_deadline(&self) -> bool {
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
        match self.begin_decision(partition, charges, Wish::Peek) {
            Ok(answer) => StoreFuture::pending(async move { Ok(answer.await?.decisions) }),
            Err(error) => StoreFuture::failed(error),
        }
    }

    fn charge(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<()> {
        if let Some(carried) = self.after_carrying(partition, charges, Self::charge) {
            return carried;
        }
        match self.begin_decision(partition, charges, Wish::Charge) {
            Ok(answer) => StoreFuture::pending(async move { answer.await.map(drop) }),
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
        // Before and after: a denial that is on its way may be older than the refund.
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
        shared.rate_limit.debts.forget(&partition, policies);
        StoreFuture::pending(async move {
            let reset = turn.script(call).await;
            shared.rate_limit.denied.forget(&partition);
            reset.map(drop)
        })
    }
}

impl RedisStore {
    /// Decides a request in this process: by leased tokens, by deferred charges, or by a denial that
    /// still holds. `None` if the server has to decide.
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
        if may_owe(charges)
            && let Some(spent) = limits.debts.spend(partition, charges, now)
        {
            return Some(self.report_if_due(*partition, spent));
        }
        let decisions = limits.denied.decide(partition, charges, now)?;
        self.shared.link.note_local_answer();
        Some(StoreFuture::ready(decisions))
    }

    /// Starts a report of deferred charges in the background if it is due.
    // In a future, because a report can be spawned only where it is polled.
    fn report_if_due(&self, partition: StoreKey, spent: Spent) -> StoreFuture<Decisions> {
        if !spent.is_due {
            return StoreFuture::ready(spent.decisions);
        }
        let shared = Arc::clone(&self.shared);
        StoreFuture::pending(async move {
            shared.tell_beside(partition);
            Ok(spent.decisions)
        })
    }

    /// Lets the server decide a request.
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
            is_leased: divisor > 0,
        };
        if divisor > 0
            && let Some(ahead) = limits.leases.ask(partition, charges, divisor, now)
        {
            return self.lease(partition, charges, ahead, asked);
        }
        let may_owe = may_owe(charges);
        let wish = match may_owe {
            true => Wish::TakeAndTell,
            false => Wish::Take,
        };
        let reply = match self.begin_decision(partition, charges, wish) {
            Ok(reply) => reply,
            Err(error) => return StoreFuture::failed(error),
        };
        let deferred: SmallVec<[Policy; 2]> = match may_owe {
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

    /// Decides a request, and leases tokens for the next ones.
    fn lease(
        &self,
        partition: &StoreKey,
        charges: &[Charge<'_>],
        ahead: Ahead,
        asked: CallContext,
    ) -> StoreFuture<Decisions> {
        let mut call = LeaseCall::new(&self.shared, *partition, ahead.number);
        let key = self.limits_key(partition);
        let answer = match self.begin_limit(&key) {
            Ok(turn) => self.ask(turn, Question::leasing(key, charges, &ahead)),
            Err(error) => {
                call.fate = Fate::NotCharged;
                return StoreFuture::failed(error);
            }
        };
        let ids = charges.iter().map(|charge| charge.policy.id());
        let ids: SmallVec<[u64; 4]> = ids.collect();
        StoreFuture::pending(async move {
            call.shared.tend();
            let answer = answer.await;
            let answer = answer.inspect_err(|error| call.fate = Fate::of(error))?;
            call.receive(&ids, &answer, asked.at);
            let (limits, now) = (&call.shared.rate_limit, call.shared.link.now());
            let known = ids.into_iter().zip(answer.states);
            limits
                .denied
                .learn(call.partition, known, &answer.decisions, asked, now);
            Ok(answer.decisions)
        })
    }
}

/// A question about leases that is under way. Dropped before its reply, it leaves open which tokens
/// the server has granted.
pub(super) struct LeaseCall {
    pub(super) shared: Arc<Shared>,
    partition: StoreKey,
    number: u64,
    fate: Fate,
}

impl LeaseCall {
    pub(super) fn new(shared: &Arc<Shared>, partition: StoreKey, number: u64) -> Self {
        Self {
            shared: Arc::clone(shared),
            partition,
            number,
            fate: Fate::Unknown,
        }
    }

    /// Holds the tokens that a reply grants.
    fn receive(&self, ids: &[u64], answer: &DecisionReply, asked_at: Timestamp) {
        let decisions = answer.decisions.each().iter().zip(&answer.ahead);
        let granted = decisions.map(|(decision, (tokens, receipt))| Granted {
            tokens: *tokens,
            left: decision.remaining().saturating_sub(*tokens),
            receipt: *receipt,
            at: answer.decisions.at(),
            asked_at,
        });
        let (leases, now) = (&self.shared.rate_limit.leases, self.shared.link.now());
        let granted = ids.iter().copied().zip(granted);
        leases.receive(&self.partition, self.number, granted, now);
    }
}

impl Drop for LeaseCall {
    fn drop(&mut self) {
        let (leases, now) = (&self.shared.rate_limit.leases, self.shared.link.now());
        // Nothing is under this number any more once the reply was received.
        match self.fate {
            Fate::NotCharged => leases.restore(&self.partition, self.number, now),
            Fate::Unknown => leases.doubt(&self.partition, self.number, now),
        }
    }
}

impl Shared {
    /// Remembers a reply of the server: denials of all policies, and the states of deferred ones.
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
            limits.debts.learn(partition, &Report::new(), known, times);
            self.tend();
        }
        let known = ids.iter().copied().zip(reply.states.iter().copied());
        let decisions = &reply.decisions;
        limits.denied.learn(partition, known, decisions, asked, now);
    }

    /// Sees to it that a task looks for what lies idle, and what is late to be told.
    fn tend(self: &Arc<Self>) {
        if !self.rate_limit.is_tended.swap(true, Ordering::SeqCst) {
            let (tending, runtime) = (Tending(Arc::downgrade(self)), self.link.runtime());
            runtime.spawn(Box::pin(tending.run(Arc::clone(runtime))));
        }
    }

    /// Tells the server beside the requests what was admitted here.
    fn tell_beside(self: &Arc<Self>, partition: StoreKey) {
        let debts = &self.rate_limit.debts;
        let report = debts.take(&partition, self.link.now());
        if !report.is_empty() {
            let telling = Telling::new(self, partition, report);
            self.link.runtime().spawn(Box::pin(telling.run()));
        }
    }

    /// Returns leased tokens. After a failure they are returned by a later question.
    async fn return_tokens(self: &Arc<Self>, tokens: Return) {
        let store = RedisStore {
            shared: Arc::clone(self),
        };
        let Return {
            partition,
            policies,
            ahead,
        } = tokens;
        let charges: SmallVec<[Charge<'_>; 1]> =
            policies.iter().map(|it| Charge::new(it, 0)).collect();
        let now = self.link.now();
        let asked = CallContext {
            at: now,
            gifts: self.rate_limit.denied.gifts(),
            is_leased: true,
        };
        // Before and after: a denial that is on its way may be older than what is returned.
        self.rate_limit.denied.forget(&partition);
        let returned = store.lease(&partition, &charges, ahead, asked);
        drop(charges);
        drop(returned.await);
        self.rate_limit.denied.forget(&partition);
    }
}

/// Returns all leased tokens, and reports what was admitted.
pub(crate) async fn close(shared: &Arc<Shared>) {
    for tokens in shared.rate_limit.leases.all(shared.link.now()) {
        shared.return_tokens(tokens).await;
    }
    for (partition, report) in shared.rate_limit.debts.take_all(shared.link.now()) {
        Telling::new(shared, partition, report).run().await;
    }
}

/// A report on its way to the server. Dropped before the answer it is taken for one that may have
/// arrived.
pub(super) struct Telling {
    store: RedisStore,
    partition: StoreKey,
    report: Report,
    fate: Fate,
}

impl Telling {
    pub(super) fn new(shared: &Arc<Shared>, partition: StoreKey, report: Report) -> Self {
        let store = RedisStore {
            shared: Arc::clone(shared),
        };
        Self {
            store,
            partition,
            report,
            fate: Fate::Unknown,
        }
    }

    async fn run(mut self) {
        let asked_at = self.store.shared.link.now();
        let charges = self.report.iter();
        let charges: SmallVec<[Charge<'_>; 1]> = charges
            .map(|(policy, amount)| Charge::new(policy, *amount))
            .collect();
        let begun = self
            .store
            .begin_decision(&self.partition, &charges, Wish::ChargeAndTell);
        drop(charges);
        let answer = match begun {
            Ok(answer) => answer.await,
            Err(error) => Err(error),
        };
        let shared = Arc::clone(&self.store.shared);
        match answer {
            Ok(answer) => {
                let report = std::mem::take(&mut self.report);
                let policies: SmallVec<[Policy; 1]> =
                    report.iter().map(|(policy, _)| policy.clone()).collect();
                let known = policies.into_iter().zip(answer.states);
                let times = [answer.decisions.at(), asked_at, shared.link.now()];
                let debts = &shared.rate_limit.debts;
                debts.learn(self.partition, &report, known, times);
            }
            Err(error) => self.fate = Fate::of(&error),
        }
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        let shared = &self.store.shared;
        let debts = &shared.rate_limit.debts;
        debts.lost(&self.partition, &self.report, self.fate, shared.link.now());
    }
}

/// The task that gives back what lies idle, and tells what is late to be told. It ends when there is
/// neither.
pub(super) struct Tending(Weak<Shared>);

/// How often it looks.
pub(super) const TEND_EVERY: Duration = Duration::from_millis(250);

impl Tending {
    async fn run(mut self, runtime: Arc<dyn Runtime>) {
        loop {
            runtime.sleep(TEND_EVERY).await;
            let Some(shared) = self.0.upgrade() else {
                return;
            };
            let limits = &shared.rate_limit;
            for tokens in limits.leases.idle(shared.link.now()) {
                shared.return_tokens(tokens).await;
            }
            for (partition, report) in limits.debts.take_late(shared.link.now()) {
                Telling::new(&shared, partition, report).run().await;
            }
            if limits.is_idle() {
                limits.is_tended.store(false, Ordering::SeqCst);
                // Something may have come meanwhile, by who saw that it is tended.
                if limits.is_idle() || limits.is_tended.swap(true, Ordering::SeqCst) {
                    self.0 = Weak::new();
                    return;
                }
            }
        }
    }
}

impl Part {
    fn is_idle(&self) -> bool {
        self.leases.is_empty() && self.debts.is_empty()
    }
}

impl Drop for Tending {
    fn drop(&mut self) {
        // Who leases next begins another, also if the runtime of this one has ended.
        if let Some(shared) = self.0.upgrade() {
            let limits = &shared.rate_limit;
            limits.is_tended.store(false, Ordering::SeqCst);
        }
    }
}

pub(super) fn pack_refunds(refunds: &[Refund<'_>]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(refunds.len() * REFUND_BYTES);
    for refund in refunds {
        push_policy(&mut packed, refund.policy);
        let receipt = refund.receipt.forgotten_at().as_micros();
        push_numbers(&mut packed, [receipt, refund.amount.min(COST_MAX)]);
        push_numbers(&mut packed, refund.policy.terms().numbers());
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate_limit::{Quota, Receipt};

    #[test]
    fn a_refund_takes_the_bytes_that_the_script_reads() {
        let policy = Policy::token_bucket("b", Quota::per_second(3)).unwrap();
        let refund = Refund::new(&policy, Receipt::default(), 1);
        assert_eq!(pack_refunds(&[refund]).len(), REFUND_BYTES);
    }
}
