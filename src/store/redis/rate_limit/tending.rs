//! Background work of rate limits: the return of idle leases, and reports of deferred charges.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use smallvec::SmallVec;

use super::{
    debts::{Fate, Report},
    denied::CallContext,
    leases::Return,
    question::Wish,
};
use crate::{
    core::{runtime::Runtime, store_api::store_key::StoreKey},
    rate_limit::{Policy, backend::Charge},
    store::redis::store::{RedisInner, RedisStore},
};

impl RedisInner {
    /// Sees to it that a task looks for what lies idle, and what is late to be told.
    pub(super) fn tend(self: &Arc<Self>) {
        if !self.rate_limit.is_tended.swap(true, Ordering::SeqCst) {
            let (tending, runtime) = (Tending(Arc::downgrade(self)), self.link.runtime());
            runtime.spawn(Box::pin(tending.run(Arc::clone(runtime))));
        }
    }

    /// Tells the server beside the requests what was admitted here.
    pub(super) fn tell_beside(self: &Arc<Self>, partition: StoreKey) {
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
pub(crate) async fn close(shared: &Arc<RedisInner>) {
    for tokens in shared.rate_limit.leases.all(shared.link.now()) {
        shared.return_tokens(tokens).await;
    }
    for (partition, report) in shared.rate_limit.debts.take_all(shared.link.now()) {
        Telling::new(shared, partition, report).run().await;
    }
}

/// A report on its way to the server. Dropped before the answer it is taken for one that may have
/// arrived.
struct Telling {
    store: RedisStore,
    partition: StoreKey,
    report: Report,
    fate: Fate,
}

impl Telling {
    fn new(shared: &Arc<RedisInner>, partition: StoreKey, report: Report) -> Self {
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
struct Tending(Weak<RedisInner>);

/// How often it looks.
const TEND_EVERY: Duration = Duration::from_millis(250);

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

impl Drop for Tending {
    fn drop(&mut self) {
        // Who leases next begins another, also if the runtime of this one has ended.
        if let Some(shared) = self.0.upgrade() {
            let limits = &shared.rate_limit;
            limits.is_tended.store(false, Ordering::SeqCst);
        }
    }
}
