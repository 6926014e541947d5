//! Checking a request against a store and acting on the resulting ruling.

use std::{sync::Arc, time::Duration};

use http::{Extensions, Request};
use smallvec::SmallVec;

use super::{
    charged::{Costs, Paid},
    note::Note,
    queue::Waiter,
    rejections,
    ruling::Ruling,
    state::{LimitCheck, PendingAdmission, Progress},
};
use crate::{
    core::{
        error::{StoreError, StoreErrorKind},
        http::rejection::Rejection,
        record::{RateLimitDecision, RecordHandle},
        store_api::{
            store_future::{ReadyOrPending, StoreFuture},
            store_key::StoreKey,
        },
    },
    rate_limit::{
        config::RateLimitConfig,
        decision::{charge::Charge, decision::Decisions},
        failover::stores::DecidingStore,
        headers::LimitLines,
        policy::policy_sets::Chosen,
        request_head::RequestHead,
    },
};

/// The error for a request that finds its queue full.
struct QueueFull;

impl<'a> LimitCheck<'a> {
    pub(crate) fn new(partition: StoreKey, set: Chosen<'a>, costs: Costs) -> Self {
        Self {
            partition,
            set,
            costs,
            store: DecidingStore::Main,
        }
    }

    /// Charges the store for the request and decides the request based on the store's reply.
    #[inline]
    pub(crate) fn take<B>(
        self,
        config: &Arc<RateLimitConfig>,
        request: &mut Request<B>,
    ) -> Progress {
        match self.charge(config, request.extensions()).into_ready() {
            ReadyOrPending::Ready(reply) => self.decide(config, request, reply),
            ReadyOrPending::Pending(pending) => {
                Progress::Wait(PendingAdmission::Deciding(pending, self.into_owned()))
            }
        }
    }

    #[inline]
    fn charge(&self, config: &RateLimitConfig, extensions: &Extensions) -> StoreFuture<Decisions> {
        // The same call reads the ban of the partition: its charge is 0.
        let ban = match self.store {
            DecidingStore::Main => config.bans.as_ref().map(|bans| bans.policy()),
            DecidingStore::Local(..) => None,
        };
        let take = |charges: &[Charge<'_>]| {
            let stores = &config.stores;
            stores.take(&self.store, &self.partition, charges, extensions)
        };
        let is_provisional = config.charging.options.is_provisional();
        let charge =
            |(policy, cost): (_, &u64)| Charge::new(policy, *cost).provisional(is_provisional);
        match (self.set.policies(), &*self.costs, ban) {
            ([policy], [cost], None) => take(&[charge((policy, cost))]),
            (policies, costs, ban) => {
                let mut charges = SmallVec::<[Charge<'_>; 4]>::new();
                charges.extend(policies.iter().zip(costs).map(charge));
                charges.extend(ban.map(|ban| Charge::new(ban, 0)));
                take(&charges)
            }
        }
    }

    /// Decides the request based on the store's reply.
    pub(crate) fn decide<B>(
        &self,
        config: &Arc<RateLimitConfig>,
        request: &mut Request<B>,
        reply: Result<Decisions, StoreError>,
    ) -> Progress {
        if let Err(error) = &reply
            && let Some(local) = self.fallback(config, request, error.kind())
        {
            return local.take(config, request);
        }
        let stores = &config.stores;
        if let (DecidingStore::Main, Ok(_)) = (&self.store, &reply) {
            stores.charge_unsent(&self.partition, self.set.shared());
        }
        let admit_undecided = || stores.admit_undecided(&self.set);
        let ruling = Ruling::new(&reply, &self.store, &self.set, admit_undecided);
        ruling.audit_shadow_denials(&config.audit, request.extensions());
        if let Some(rejection) = self.reject_banned(config, request, &ruling) {
            return rejection;
        }
        let jitter = || config.responses.jitter(&self.partition);
        match ruling.rejection(jitter) {
            Some(rejection) => self.reject_denied(config, request, &ruling, rejection),
            None => self.admit(config, request, &ruling),
        }
    }

    /// Returns the local store's check after a failure of the main store.
    fn fallback<B>(
        &self,
        config: &RateLimitConfig,
        request: &Request<B>,
        failure: StoreErrorKind,
    ) -> Option<LimitCheck<'static>> {
        let (store, set) = config.stores.fallback(&self.store, &self.set, failure)?;
        let options = &config.charging.options;
        Some(LimitCheck {
            partition: self.partition,
            costs: options.costs(&set, &RequestHead::from(request)),
            set: Chosen::Latest(set),
            store,
        })
    }

    /// Rejects the request and refunds its charges if its partition is banned.
    fn reject_banned<B>(
        &self,
        config: &RateLimitConfig,
        request: &Request<B>,
        ruling: &Ruling<'_>,
    ) -> Option<Progress> {
        let bans = config.bans.as_ref()?;
        let (rejection, policy) = bans.rejection(ruling.ban_decision()?)?;
        if let Some(paid) = self.paid(config, ruling) {
            paid.give_back();
        }
        let outcome = ruling.denied_outcome([policy]);
        let note = Note::denied(request.extensions(), LimitLines::None, outcome);
        Some(Progress::reject(config, request, rejection, note))
    }

    /// Rejects a request that a policy denied or that no store could decide.
    fn reject_denied<B>(
        &self,
        config: &RateLimitConfig,
        request: &Request<B>,
        ruling: &Ruling<'_>,
        rejection: Rejection,
    ) -> Progress {
        if ruling.decision() == RateLimitDecision::Denied
            && let Some(bans) = &config.bans
        {
            let subject = self.subject(config, request);
            bans.count_denial(&config.stores, self.partition, subject, &config.audit);
        }
        let lines = ruling.lines(config.responses.fields);
        let note = Note::denied(request.extensions(), lines, ruling.outcome(Duration::ZERO));
        Progress::reject(config, request, rejection, note)
    }

    fn admit<B>(
        &self,
        config: &Arc<RateLimitConfig>,
        request: &mut Request<B>,
        ruling: &Ruling<'_>,
    ) -> Progress {
        let delay = ruling.delay(&self.costs);
        let waiter = match self.enqueue(config, ruling, delay) {
            Ok(waiter) => waiter,
            Err(QueueFull) => {
                let outcome = ruling.denied_outcome([]);
                let note = Note::denied(request.extensions(), LimitLines::None, outcome);
                return Progress::reject(config, request, rejections::queue_full(delay), note);
            }
        };
        let delayed = waiter.as_ref().map_or(Duration::ZERO, |_| delay);
        let mut note = self.note(config, request, ruling, delayed);
        if let Some(waiter) = waiter {
            return Progress::Wait(PendingAdmission::Queued(waiter, note));
        }
        let options = &config.charging.options;
        if options.is_provisional()
            && let Some(paid) = self.paid(config, ruling)
        {
            note.hold(paid, options, request);
        }
        Progress::admit(note)
    }

    fn note<B>(
        &self,
        config: &Arc<RateLimitConfig>,
        request: &mut Request<B>,
        ruling: &Ruling<'_>,
        delayed: Duration,
    ) -> Note {
        let lines = ruling.lines(config.responses.fields);
        let outcome = || ruling.outcome(delayed);
        let mut note = match config.responses.exposes_outcome {
            true => Note::exposed(request.extensions_mut(), lines, outcome()),
            false => Note::admitted(
                RecordHandle::from_extensions(request.extensions()),
                lines,
                outcome,
            ),
        };
        if config.bans.as_ref().is_some_and(|bans| bans.counts_auth()) {
            let subject = self.subject(config, request);
            note.judge_auth(config, self.partition, subject, request.version());
        }
        note
    }

    /// Joins the queue if the request must wait for its turn.
    #[inline]
    fn enqueue(
        &self,
        config: &RateLimitConfig,
        ruling: &Ruling<'_>,
        delay: Duration,
    ) -> Result<Option<Waiter>, QueueFull> {
        if delay.is_zero() {
            return Ok(None);
        }
        match (&config.queue, self.paid(config, ruling)) {
            (Some(queue), Some(paid)) => queue.join(paid, delay).map(Some).ok_or(QueueFull),
            (Some(_) | None, _) => Ok(None),
        }
    }

    /// Returns the charges if a store admitted the request.
    fn paid(&self, config: &RateLimitConfig, ruling: &Ruling<'_>) -> Option<Paid> {
        let admitted = ruling.charged()?;
        let (partition, set) = (self.partition, self.set.shared());
        let stores = &config.stores;
        Some(stores.charged(&self.store, partition, set, &self.costs, admitted))
    }

    fn subject<B>(&self, config: &RateLimitConfig, request: &Request<B>) -> Arc<str> {
        let head = RequestHead::from(request);
        config.charging.partition.subject(&self.partition, &head)
    }

    fn into_owned(self) -> LimitCheck<'static> {
        LimitCheck {
            partition: self.partition,
            set: Chosen::Latest(self.set.into_owned()),
            costs: self.costs,
            store: self.store,
        }
    }
}
