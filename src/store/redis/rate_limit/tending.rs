//! Background work of rate limits: returning idle leases and reporting deferred charges.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use smallvec::SmallVec;

use super::{
    deferred::{Fate, Report},
    denied::CallContext,
    leases::Return,
    question::TakeOperation,
};
use crate::{
    core::{runtime::Runtime, store_api::store_key::StoreKey},
    rate_limit::{Policy, backend::Charge},
    store::redis::store::{RedisInner, RedisStore},
};

impl RedisInner {
    /// Starts the background task, unless it is already running.
    pub(super) fn tend(self: &Arc<Self>) {
        if !self.rate_limit.is_tended.swap(true, Ordering::SeqCst) {
            let (maintenance, runtime) = (Maintenance(Arc::downgrade(self)), self.link.runtime());
            runtime.spawn(Box::pin(maintenance.run(Arc::clone(runtime))));
        }
    }

    /// Reports the deferred charges of a partition in the background.
    pub(super) fn report_in_background(self: &Arc<Self>, partition: StoreKey) {
        let deferred = &self.rate_limit.deferred;
        let report = deferred.take(&partition, self.link.now());
        if !report.is_empty() {
            let sending = PendingReport::new(self, partition, report);
            self.link.runtime().spawn(Box::pin(sending.run()));
        }
    }

    /// Returns leased tokens. If the call fails, a later call returns the tokens.
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
            is_brief: true,
        };
        // Before and after, since a rejection that is being received can be older than the return.
        self.rate_limit.denied.forget(&partition);
        let returned = store.lease(&partition, &charges, ahead, asked);
        drop(charges);
        drop(returned.await);
        self.rate_limit.denied.forget(&partition);
    }
}

/// Returns all leased tokens and reports all deferred charges.
pub(crate) async fn close(shared: &Arc<RedisInner>) {
    for tokens in shared.rate_limit.leases.all(shared.link.now()) {
        shared.return_tokens(tokens).await;
    }
    for (partition, report) in shared.rate_limit.deferred.take_all(shared.link.now()) {
        PendingReport::new(shared, partition, report).run().await;
    }
}

/// A report that is being sent. If this value is dropped before the reply arrives, the effect of
/// the report is unknown.
struct PendingReport {
    store: RedisStore,
    partition: StoreKey,
    report: Report,
    fate: Fate,
}

impl PendingReport {
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
        let begun =
            self.store
                .begin_decision(&self.partition, &charges, TakeOperation::ChargeWithStates);
        drop(charges);
        let reply = match begun {
            Ok(reply) => reply.await,
            Err(error) => Err(error),
        };
        let shared = Arc::clone(&self.store.shared);
        match reply {
            Ok(reply) => {
                let report = std::mem::take(&mut self.report);
                let policies: SmallVec<[Policy; 1]> =
                    report.iter().map(|(policy, _)| policy.clone()).collect();
                let known = policies.into_iter().zip(reply.states);
                let times = [reply.decisions.at(), asked_at, shared.link.now()];
                let deferred = &shared.rate_limit.deferred;
                deferred.learn(self.partition, &report, known, times);
            }
            Err(error) => self.fate = Fate::of(&error),
        }
    }
}

impl Drop for PendingReport {
    fn drop(&mut self) {
        let shared = &self.store.shared;
        let deferred = &shared.rate_limit.deferred;
        deferred.lost(&self.partition, &self.report, self.fate, shared.link.now());
    }
}

/// The task that returns idle leases and sends overdue reports. The task ends when there is nothing
/// left to do.
struct Maintenance(Weak<RedisInner>);

/// The interval between the task's checks.
const MAINTENANCE_INTERVAL: Duration = Duration::from_millis(250);

impl Maintenance {
    async fn run(mut self, runtime: Arc<dyn Runtime>) {
        loop {
            runtime.sleep(MAINTENANCE_INTERVAL).await;
            let Some(shared) = self.0.upgrade() else {
                return;
            };
            let limits = &shared.rate_limit;
            for tokens in limits.leases.idle(shared.link.now()) {
                shared.return_tokens(tokens).await;
            }
            for (partition, report) in limits.deferred.take_late(shared.link.now()) {
                PendingReport::new(&shared, partition, report).run().await;
            }
            if limits.is_idle() {
                limits.is_tended.store(false, Ordering::SeqCst);
                // Work may have been added by a call that saw the flag set.
                if limits.is_idle() || limits.is_tended.swap(true, Ordering::SeqCst) {
                    self.0 = Weak::new();
                    return;
                }
            }
        }
    }
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        // The next call starts another task, also if the runtime of this one has ended.
        if let Some(shared) = self.0.upgrade() {
            let limits = &shared.rate_limit;
            limits.is_tended.store(false, Ordering::SeqCst);
        }
    }
}
