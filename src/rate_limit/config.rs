//! Everything that the layer was told, and what it follows from it for a request.

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use http::StatusCode;
use smallvec::SmallVec;

use super::{
    callers::Callers,
    charge::Charge,
    decision::{Decision, Decisions},
    headers::{Lines, RateLimitFields},
    on_store_error::OnStoreError,
    own_sets::OwnSets,
    paid::{Costs, Paid},
    partition::{Place, StoredPartition},
    policy::Policy,
    policy_set::{Chosen, LiveSets, PolicySet},
    request_head::RequestHead,
    store::RateLimitStore,
    waiting::Line,
};
use crate::{
    audit::Audit,
    client_addr::MissingClientAddr,
    error::StoreErrorKind,
    identity::Identity,
    record::{PolicyOutcome, RateLimitDecision, RateLimitOutcome, RecordHandle},
    rejection::{Rejection, Responder},
    runtime::Runtime,
    store_future::StoreFuture,
    store_key::StoreKey,
    store_watch::StoreWatch,
};

pub(super) struct Config {
    pub(super) store: Arc<dyn RateLimitStore>,
    pub(super) partition: StoredPartition,
    pub(super) sets: LiveSets,
    pub(super) own: Option<OwnSets>,
    pub(super) fields: RateLimitFields,
    pub(super) on_store_error: OnStoreError,
    pub(super) responder: Responder,
    pub(super) allow: Callers,
    pub(super) deny: Callers,
    pub(super) skip: Option<Arc<Skip>>,
    pub(super) tier_by: Option<Arc<TierBy>>,
    pub(super) cost: Option<Arc<Cost>>,
    pub(super) retry_jitter: Duration,
    pub(super) runtime: Option<Arc<dyn Runtime>>,
    pub(super) line: Option<Arc<Line>>,
    pub(super) audit: Audit,
    pub(super) watch: StoreWatch,
}

pub(super) type Skip = dyn Fn(&RequestHead<'_>) -> bool + Send + Sync;
pub(super) type TierBy = dyn for<'a> Fn(&RequestHead<'a>) -> Option<Cow<'a, str>> + Send + Sync;
pub(super) type Cost = dyn Fn(&RequestHead<'_>, &Policy) -> u64 + Send + Sync;

/// What a request is asked for.
pub(super) enum Plan<'a> {
    /// No policy applies to it.
    Skip,
    /// It is in this partition, and has to pass these policies.
    Ask(StoreKey, Chosen<'a>),
    /// It cannot be counted. In a box: what nearly never comes makes nothing larger.
    Reject(Box<Rejection>),
}

/// Who answered.
#[derive(Clone, Copy)]
pub(super) enum Answer<'a> {
    /// The store.
    Store(&'a Decisions),
    /// The local store in its place, on the local set: the store failed so.
    Local(&'a Decisions, StoreErrorKind),
    /// Nobody: the store failed so.
    Failed(StoreErrorKind),
}

/// What came of it.
pub(super) enum Ruling {
    /// The request goes on; these lines go into its response.
    Admit(Lines),
    /// The request ends here.
    Reject(Box<Rejection>, Lines),
}

impl Config {
    #[inline]
    pub(super) fn plan(&self, head: &RequestHead<'_>) -> Plan<'_> {
        self.try_plan(head)
            .unwrap_or_else(|_missing| Plan::Reject(Box::new(address_unknown())))
    }

    #[inline]
    fn try_plan(&self, head: &RequestHead<'_>) -> Result<Plan<'_>, MissingClientAddr> {
        if self.deny.include(head)? {
            return Ok(Plan::Reject(Box::new(caller_denied())));
        }
        if self.skip.as_ref().is_some_and(|skip| skip(head)) || self.allow.include(head)? {
            return Ok(Plan::Skip);
        }
        let set = self.set(head);
        if set.policies().is_empty() {
            return Ok(Plan::Skip);
        }
        Ok(match self.partition.place(head)? {
            Place::In(partition) => Plan::Ask(partition, set),
            Place::Outside => Plan::Skip,
        })
    }

    fn set(&self, head: &RequestHead<'_>) -> Chosen<'_> {
        let set = self.sets.choose(|| match &self.tier_by {
            Some(tier_by) => tier_by(head),
            None => {
                let tier = head.extensions.get().and_then(Identity::tier);
                tier.map(Cow::Borrowed)
            }
        });
        match &self.own {
            Some(own) => own.of_caller(set, head.extensions.get()),
            None => set,
        }
    }

    pub(super) fn take(
        &self,
        partition: &StoreKey,
        set: &PolicySet,
        head: &RequestHead<'_>,
    ) -> StoreFuture<Decisions> {
        let answer = self.take_from(&*self.store, partition, set, head);
        self.watch
            .over(answer, || RecordHandle::of(head.extensions).cloned())
    }

    /// Returns what a request costs each policy, for those whom the answer is not the end of it.
    pub(super) fn costs(&self, set: &PolicySet, head: &RequestHead<'_>) -> Costs {
        let cost = |policy| self.cost.as_ref().map_or(1, |cost| cost(head, policy));
        set.policies().iter().map(cost).collect()
    }

    /// Asks the store for costs that are known.
    pub(super) fn take_costs(
        &self,
        partition: &StoreKey,
        set: &PolicySet,
        costs: &[u64],
        record: Option<RecordHandle>,
    ) -> StoreFuture<Decisions> {
        let answer = take_costs(&*self.store, partition, set, costs);
        self.watch.over(answer, || record)
    }

    /// Returns the line that a request has to join that was admitted so, what it has paid for its
    /// turn, and how long it takes until that comes; nothing if it may go on at once.
    pub(super) fn turn(
        &self,
        answer: Answer<'_>,
        partition: StoreKey,
        set: &Arc<PolicySet>,
        costs: &[u64],
    ) -> Option<(&Arc<Line>, Paid, Duration)> {
        let (store, decisions) = self.answered(answer)?;
        let delay = set.delay(costs, decisions);
        let line = self.line.as_ref().filter(|_| !delay.is_zero())?;
        let runtime = self.runtime.as_ref();
        let paid = Paid::new(store, runtime, partition, set, costs, decisions);
        Some((line, paid, delay))
    }

    /// Returns the store that answered, and what.
    fn answered<'a>(
        &self,
        answer: Answer<'a>,
    ) -> Option<(&Arc<dyn RateLimitStore>, &'a Decisions)> {
        match (answer, &self.on_store_error) {
            (Answer::Store(decisions), _) => Some((&self.store, decisions)),
            (Answer::Local(decisions, _), OnStoreError::Local { store, .. }) => {
                Some((store, decisions))
            }
            (Answer::Local(..), OnStoreError::Allow | OnStoreError::Deny)
            | (Answer::Failed(_), _) => None,
        }
    }

    /// Asks the local store, if there is one, on the local set.
    pub(super) fn take_locally(
        &self,
        partition: &StoreKey,
        local: &PolicySet,
        head: &RequestHead<'_>,
    ) -> Option<StoreFuture<Decisions>> {
        match &self.on_store_error {
            OnStoreError::Local { store, .. } => {
                Some(self.take_from(&**store, partition, local, head))
            }
            OnStoreError::Allow | OnStoreError::Deny => None,
        }
    }

    #[inline]
    fn take_from(
        &self,
        store: &dyn RateLimitStore,
        partition: &StoreKey,
        set: &PolicySet,
        head: &RequestHead<'_>,
    ) -> StoreFuture<Decisions> {
        let cost = |policy| self.cost.as_ref().map_or(1, |cost| cost(head, policy));
        let charge = |policy| Charge::new(policy, cost(policy));
        match set.policies() {
            [one] => store.take(partition, &[charge(one)]),
            several => {
                let charges: SmallVec<[Charge<'_>; 4]> = several.iter().map(charge).collect();
                store.take(partition, &charges)
            }
        }
    }

    /// Returns what follows from the answer.
    #[inline]
    pub(super) fn rule(&self, answer: Answer<'_>, partition: &StoreKey, set: &PolicySet) -> Ruling {
        let (decisions, exceeded): (_, Exceeded) = match answer {
            Answer::Store(decisions) => (decisions, quota_exceeded),
            Answer::Local(decisions, _) => (decisions, local_quota_exceeded),
            Answer::Failed(_) if self.fails_open() => return Ruling::Admit(Lines::None),
            Answer::Failed(_) => return Ruling::Reject(Box::new(store_failed()), Lines::None),
        };
        let lines = Lines::new(self.fields, set.policies(), set.policy_field(), decisions);
        if decisions.is_admitted() {
            Ruling::Admit(lines)
        } else {
            let rejection = exceeded(set, decisions, self.jitter(partition));
            Ruling::Reject(Box::new(rejection), lines)
        }
    }

    fn fails_open(&self) -> bool {
        match self.on_store_error {
            OnStoreError::Allow => true,
            OnStoreError::Local { .. } | OnStoreError::Deny => false,
        }
    }

    /// Returns the partition's own part of the jitter: always the same, and another than most
    /// others'.
    fn jitter(&self, partition: &StoreKey) -> Duration {
        self.retry_jitter * u32::from(partition.as_bytes()[15]) / 255
    }

    /// Returns what the record is told of the answer.
    pub(super) fn outcome(&self, answer: Answer<'_>, set: &PolicySet) -> RateLimitOutcome {
        let (decisions, decision) = match answer {
            Answer::Store(decisions) if decisions.is_admitted() => {
                (decisions, RateLimitDecision::Allowed)
            }
            Answer::Store(decisions) => (decisions, RateLimitDecision::Denied),
            Answer::Local(decisions, kind) if decisions.is_admitted() => {
                (decisions, RateLimitDecision::LocallyAllowed(kind))
            }
            Answer::Local(decisions, kind) => (decisions, RateLimitDecision::LocallyDenied(kind)),
            Answer::Failed(kind) if self.fails_open() => {
                return RateLimitOutcome::new(RateLimitDecision::FailedOpen(kind), []);
            }
            Answer::Failed(kind) => {
                return RateLimitOutcome::new(RateLimitDecision::FailedClosed(kind), []);
            }
        };
        let said = set.policies().iter().zip(decisions.each());
        RateLimitOutcome::new(decision, said.map(policy_outcome))
    }
}

fn take_costs(
    store: &dyn RateLimitStore,
    partition: &StoreKey,
    set: &PolicySet,
    costs: &[u64],
) -> StoreFuture<Decisions> {
    let policies = set.policies().iter().zip(costs);
    let charges: SmallVec<[Charge<'_>; 4]> = policies
        .map(|(policy, cost)| Charge::new(policy, *cost))
        .collect();
    store.take(partition, &charges)
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("store", &self.store)
            .field("partition", &self.partition)
            .field("sets", &self.sets)
            .finish_non_exhaustive()
    }
}

pub(super) fn skipped() -> RateLimitOutcome {
    RateLimitOutcome::new(RateLimitDecision::Skipped, [])
}

fn policy_outcome((policy, said): (&Policy, &Decision)) -> PolicyOutcome {
    let name = Arc::clone(policy.shared_name());
    let (limit, left, reset) = (policy.capacity(), said.remaining(), said.reset_after());
    if said.is_admitted() {
        PolicyOutcome::allowed(name, limit, left, reset)
    } else {
        PolicyOutcome::denied(name, limit, left, said.retry_after(), reset)
    }
}

/// Words a denial.
type Exceeded = fn(&PolicySet, &Decisions, Duration) -> Rejection;

fn quota_exceeded(set: &PolicySet, decisions: &Decisions, jitter: Duration) -> Rejection {
    if denying(set, decisions).any(|(_, decision)| decision.is_never()) {
        return exceeded(set, decisions).detail("The request costs more than the quota ever holds");
    }
    exceeded(set, decisions).retry_after(longest_wait(set, decisions) + jitter)
}

/// The same where the store failed. What costs more than an instance's share will be admitted once
/// the store is back: there is no never, and such a wait is no more than a guess.
fn local_quota_exceeded(set: &PolicySet, decisions: &Decisions, jitter: Duration) -> Rejection {
    let wait = longest_wait(set, decisions).max(STORE_RETRY_AFTER);
    exceeded(set, decisions).retry_after(wait + jitter)
}

fn exceeded(set: &PolicySet, decisions: &Decisions) -> Rejection {
    Rejection::new(
        StatusCode::TOO_MANY_REQUESTS,
        Cow::Borrowed("https://iana.org/assignments/http-problem-types#quota-exceeded"),
        "Request cannot be satisfied as assigned quota has been exceeded",
    )
    .member(
        "violated-policies",
        denying(set, decisions).map(|(policy, _)| policy.name()),
    )
}

fn longest_wait(set: &PolicySet, decisions: &Decisions) -> Duration {
    denying(set, decisions)
        .filter_map(|(_, decision)| decision.retry_after())
        .max()
        .unwrap_or_default()
}

fn denying<'a>(
    set: &'a PolicySet,
    decisions: &'a Decisions,
) -> impl Iterator<Item = (&'a Policy, &'a Decision)> {
    let said = set.policies().iter().zip(decisions.each());
    said.filter(|(policy, said)| !policy.is_shadow() && !said.is_admitted())
}

/// When a store that failed is worth another try.
const STORE_RETRY_AFTER: Duration = Duration::from_secs(1);

fn store_failed() -> Rejection {
    Rejection::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "rate-limit-unavailable",
        "Rate limits cannot be checked at the moment",
    )
    .retry_after(STORE_RETRY_AFTER)
}

pub(super) fn too_many_wait(delay: Duration) -> Rejection {
    Rejection::new(
        StatusCode::SERVICE_UNAVAILABLE,
        Cow::Borrowed("https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"),
        "Too many requests wait for their turn",
    )
    .retry_after(delay)
}

fn caller_denied() -> Rejection {
    Rejection::new(
        StatusCode::FORBIDDEN,
        "caller-denied",
        "This caller is not let in",
    )
}

fn address_unknown() -> Rejection {
    Rejection::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "client-address-unknown",
        "The server does not know who is connected",
    )
}
