//! Everything that the layer was told, and what it follows from it for a request.

use std::{
    borrow::Cow,
    fmt,
    future::Future,
    pin::Pin,
    slice,
    sync::{Arc, atomic::AtomicBool},
    task::{Context, Waker},
    time::Duration,
};

use http::StatusCode;
use smallvec::SmallVec;

use super::{
    callers::Callers,
    charge::Charge,
    counted::Counted,
    decision::{Decision, Decisions},
    headers::{Lines, RateLimitFields},
    local_store::LocalStore,
    on_store_error::OnStoreError,
    own_sets::OwnSets,
    paid::{Costs, Paid},
    partition::{OnlyPart, Place, StoredPartition},
    penalty::Bans,
    policy::Policy,
    policy_set::{Chosen, Failing, LiveSets, PolicyList, PolicySet},
    request_head::RequestHead,
    store::RateLimitStore,
    waiting::Line,
};
use crate::{
    audit::{Audit, AuditEvent},
    client_addr::MissingClientAddr,
    deadline::Deadline,
    error::StoreErrorKind,
    identity::Identity,
    layer_order::Placement,
    notice,
    record::{PolicyOutcome, RateLimitDecision, RateLimitOutcome, RecordHandle},
    rejection::{Rejection, Responder},
    runtime::{Runtime, Task},
    store_future::StoreFuture,
    store_key::StoreKey,
    store_watch::StoreWatch,
    time::Timestamp,
};

pub(super) struct Config {
    pub(super) store: Arc<dyn RateLimitStore>,
    /// The same, for what no request waits for.
    pub(super) beside: Arc<dyn RateLimitStore>,
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
    pub(super) policies_by: Option<Arc<PoliciesBy>>,
    pub(super) bans: Option<Arc<Bans>>,
    pub(super) settles: bool,
    pub(super) tells_handlers: bool,
    /// By what requests are counted on the [short way](Config::plain), if there is one. No
    /// function of the user's is asked there: none is asked twice.
    pub(super) plain_by: Option<OnlyPart>,
    /// The store that decides while the other fails.
    pub(super) local: Option<Arc<LocalStore>>,
    pub(super) audit: Audit,
    pub(super) watch: StoreWatch,
    pub(super) runtime: Option<Arc<dyn Runtime>>,
    pub(super) line: Option<Arc<Line>>,
    pub(super) deadline: Deadline,
    /// Whether the limiter counts or chooses by the identity of the caller.
    pub(super) reads_identity: bool,
    pub(super) placement: Placement,
    /// The counts of the limiter, to compare it with other limiters.
    pub(super) counted: Counted,
}

pub(super) type Skip = dyn Fn(&RequestHead<'_>) -> bool + Send + Sync;
pub(super) type TierBy = dyn for<'a> Fn(&RequestHead<'a>) -> Option<Cow<'a, str>> + Send + Sync;
pub(super) type PoliciesBy = dyn Fn(&RequestHead<'_>) -> Policies + Send + Sync;
pub(super) type Policies = Pin<Box<dyn Future<Output = Option<PolicyList>> + Send>>;
pub(super) type Cost = dyn Fn(&RequestHead<'_>, &Policy) -> u64 + Send + Sync;

/// What a request is asked for.
pub(super) enum Plan<'a> {
    /// No policy applies to it.
    Skip,
    /// Which policies it has to pass is yet to be found out.
    Choose(Policies),
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

impl<'a> Answer<'a> {
    pub(super) fn is_admitted(self) -> bool {
        self.decisions().is_some_and(Decisions::is_admitted)
    }

    fn decisions(self) -> Option<&'a Decisions> {
        match self {
            Self::Store(decisions) | Self::Local(decisions, _) => Some(decisions),
            Self::Failed(_) => None,
        }
    }
}

/// What is asked on the short way: one policy, of one partition.
pub(super) struct Plain<'a> {
    set: &'a PolicySet,
    policy: &'a Policy,
    partition: StoreKey,
}

impl Plain<'_> {
    /// Returns what the store said of a request that it admits.
    #[inline]
    pub(super) fn admit(&self, config: &Config) -> Option<(Timestamp, Decision)> {
        let charge = Charge::new(self.policy, 1);
        config.store.admit_at_once(&self.partition, &charge)
    }

    pub(super) fn lines(&self, fields: RateLimitFields, at: Timestamp, said: &Decision) -> Lines {
        let (policies, texts) = (self.set.policies(), self.set.texts());
        Lines::new(fields, policies, texts, at, slice::from_ref(said))
    }

    pub(super) fn outcome(&self, said: &Decision) -> RateLimitOutcome {
        let said = policy_outcome((self.policy, said));
        RateLimitOutcome::new(RateLimitDecision::Allowed, [said])
    }
}

impl Config {
    /// Returns what is to be asked on the short way: one policy, one part that the request is
    /// counted by, a store that may say yes at once, and nothing beside that. What comes to nothing
    /// here takes the long way, and nothing has been done yet.
    // Where it is called, so that the key need not go through memory.
    #[inline(always)]
    pub(super) fn plain(&self, head: &RequestHead<'_>) -> Option<Plain<'_>> {
        let part = self.plain_by.as_ref()?;
        if self.has_unsent() {
            return None;
        }
        let set = self.sets.choose_first(|| self.tier(head))?;
        let policy = set.alone()?;
        let partition = part.key(head)?;
        Some(Plain {
            set,
            policy,
            partition,
        })
    }

    pub(super) fn plan(&self, head: &RequestHead<'_>) -> Plan<'_> {
        self.try_plan(head)
            .unwrap_or_else(|_missing| Plan::Reject(Box::new(address_unknown())))
    }

    fn try_plan(&self, head: &RequestHead<'_>) -> Result<Plan<'_>, MissingClientAddr> {
        if self.deny.include(head)? {
            return Ok(Plan::Reject(Box::new(caller_denied())));
        }
        if self.skip.as_ref().is_some_and(|skip| skip(head)) || self.allow.include(head)? {
            return Ok(Plan::Skip);
        }
        if let Some(policies_by) = &self.policies_by {
            return Ok(Plan::Choose(policies_by(head)));
        }
        self.plan_for(self.set(head), head)
    }

    /// Follows what has been found out of the policies.
    pub(super) fn plan_chosen(&self, list: Option<PolicyList>, head: &RequestHead<'_>) -> Plan<'_> {
        let set = list.map_or_else(|| self.set(head), |list| Chosen::Latest(list.0));
        if set.delays() && self.line.is_none() {
            static SAID: AtomicBool = AtomicBool::new(false);
            notice::once(&SAID, || NOTHING_TO_WAIT_BY.to_owned());
            return Plan::Reject(Box::new(nothing_to_wait_by()));
        }
        self.plan_for(set, head)
            .unwrap_or_else(|_missing| Plan::Reject(Box::new(address_unknown())))
    }

    fn plan_for<'a>(
        &self,
        set: Chosen<'a>,
        head: &RequestHead<'_>,
    ) -> Result<Plan<'a>, MissingClientAddr> {
        if set.policies().is_empty() {
            return Ok(Plan::Skip);
        }
        Ok(match self.partition.place(head)? {
            Place::In(partition) => Plan::Ask(partition, set),
            Place::Outside => Plan::Skip,
        })
    }

    fn set(&self, head: &RequestHead<'_>) -> Chosen<'_> {
        let set = self.sets.choose(|| self.tier(head));
        match &self.own {
            Some(own) => own.of_caller(set, head.extensions.get()),
            None => set,
        }
    }

    fn tier<'a>(&self, head: &RequestHead<'a>) -> Option<Cow<'a, str>> {
        match &self.tier_by {
            Some(tier_by) => tier_by(head),
            None => {
                let tier = head.extensions.get().and_then(Identity::tier);
                tier.map(Cow::Borrowed)
            }
        }
    }

    pub(super) fn take(
        &self,
        partition: &StoreKey,
        set: &PolicySet,
        head: &RequestHead<'_>,
    ) -> StoreFuture<Decisions> {
        let answer = self.take_from(&*self.store, partition, set, head);
        self.watch.over(self.deadline.bound(answer), || {
            RecordHandle::of(head.extensions).cloned()
        })
    }

    /// Returns whether an answer on these policies is not the end of it, or others are told of it.
    #[inline]
    pub(super) fn is_followed_up(&self, set: &PolicySet) -> bool {
        set.delays()
            || self.settles
            || self.tells_handlers
            || self.bans.is_some()
            || self.has_unsent()
            || (set.watches() && self.audit.is_heard())
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
        head: &RequestHead<'_>,
    ) -> StoreFuture<Decisions> {
        let policies = set.policies().iter().zip(costs);
        let charges = policies.map(|(policy, cost)| Charge::new(policy, *cost));
        // Whether there is a ban is asked along, at no cost.
        let ban = self.bans.iter().map(|bans| Charge::new(bans.policy(), 0));
        let charges: SmallVec<[Charge<'_>; 4]> = charges.chain(ban).collect();
        let answer = self.store.take(partition, &charges);
        self.watch.over(self.deadline.bound(answer), || {
            RecordHandle::of(head.extensions).cloned()
        })
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

    /// Returns what a request has paid that was admitted so.
    pub(super) fn paid(
        &self,
        answer: Answer<'_>,
        partition: StoreKey,
        set: &Arc<PolicySet>,
        costs: &[u64],
    ) -> Option<Paid> {
        let (store, decisions) = self.answered(answer)?;
        let runtime = self.runtime.as_ref();
        Some(Paid::new(store, runtime, partition, set, costs, decisions))
    }

    /// Returns how a request is turned away that is banned, and what is said of the ban.
    pub(super) fn ban(
        &self,
        answer: Answer<'_>,
        set: &PolicySet,
    ) -> Option<(Rejection, PolicyOutcome)> {
        match (answer, &self.bans) {
            (Answer::Store(decisions), Some(bans)) => {
                bans.rejection(decisions.each().get(set.policies().len())?)
            }
            (Answer::Store(_), None) | (Answer::Local(..) | Answer::Failed(_), _) => None,
        }
    }

    /// Counts a denial of this partition in the background.
    pub(super) fn count_denial(&self, partition: StoreKey, subject: Arc<str>) {
        let Some(bans) = self.bans.clone() else {
            return;
        };
        let (store, audit) = (Arc::clone(&self.beside), self.audit.clone());
        self.run(Box::pin(bans.denied(store, partition, subject, audit)));
    }

    /// Runs a task in the background. A store in memory answers at once.
    fn run(&self, mut task: Task) {
        let mut nobody = Context::from_waker(Waker::noop());
        if task.as_mut().poll(&mut nobody).is_pending()
            && let Some(runtime) = &self.runtime
        {
            runtime.spawn(task);
        }
    }

    /// Tells the auditor which policies that only watch would have denied.
    fn tell_of_shadows(&self, answer: Answer<'_>, set: &PolicySet, head: &RequestHead<'_>) {
        let Some(decisions) = answer.decisions() else {
            return;
        };
        let said = set.policies().iter().zip(decisions.each());
        for (policy, said) in said {
            if policy.is_shadow() && !said.is_admitted() {
                let caller: Option<&Identity> = head.extensions.get();
                self.audit.tell(|| AuditEvent::LimitExceededInShadow {
                    policy: Arc::clone(policy.shared_name()),
                    key_id: caller.map(|caller| caller.key_id().into()),
                });
            }
        }
    }

    /// Finds the partition of a request, and its policies, for who asks beside the requests.
    pub(super) fn find(&self, head: &RequestHead<'_>) -> Option<(StoreKey, Arc<PolicySet>)> {
        match self.plan_for(self.set(head), head) {
            Ok(Plan::Ask(partition, set)) => Some((partition, set.into_owned())),
            Ok(Plan::Skip | Plan::Choose(_) | Plan::Reject(_)) | Err(_) => None,
        }
    }

    pub(super) fn peek(&self, partition: &StoreKey, set: &PolicySet) -> StoreFuture<Decisions> {
        self.beside.peek(partition, &charges(set, 0))
    }

    /// Takes so much of each policy, for who asks beside the requests.
    pub(super) fn take_beside(
        &self,
        partition: &StoreKey,
        set: &PolicySet,
        cost: u64,
    ) -> StoreFuture<Decisions> {
        self.beside.take(partition, &charges(set, cost))
    }

    pub(super) fn charge(
        &self,
        partition: &StoreKey,
        set: &PolicySet,
        cost: u64,
    ) -> StoreFuture<()> {
        self.beside.charge(partition, &charges(set, cost))
    }

    pub(super) fn reset(&self, partition: &StoreKey, set: &PolicySet) -> StoreFuture<()> {
        let bans = self.bans.iter().flat_map(|bans| bans.policies());
        let policies = set.policies().iter().flat_map(Policy::with_previous);
        let policies: SmallVec<[&Policy; 4]> = policies.chain(bans).collect();
        if let Some(local) = &self.local {
            // A store in memory has done it; no caller waits for another one.
            drop(local.reset(partition, &policies));
        }
        self.beside.reset(partition, &policies)
    }

    /// Returns the set that a local store decides on in the place of this one.
    pub(super) fn local_of(&self, set: &Arc<PolicySet>) -> Option<Arc<PolicySet>> {
        if let Some(local) = set.local() {
            return Some(Arc::clone(local));
        }
        // A list that a function chose does not know among how many it is shared.
        let share = self
            .policies_by
            .as_ref()
            .and(self.on_store_error.share().ok()?);
        share.and_then(|share| set.shared_among(Some(share)).local().cloned())
    }

    /// Does what is to be done beside the request once it has been decided.
    pub(super) fn follow_up(
        &self,
        answer: Answer<'_>,
        partition: &StoreKey,
        set: &Arc<PolicySet>,
        head: &RequestHead<'_>,
    ) {
        if let Answer::Store(_) = answer {
            self.charge_unsent(partition, set);
        }
        if set.watches() && self.audit.is_heard() {
            self.tell_of_shadows(answer, set, head);
        }
    }

    /// Returns whether the local store may have admitted requests that the other knows nothing of.
    #[inline]
    fn has_unsent(&self) -> bool {
        self.local.as_ref().is_some_and(|local| local.has_unsent())
    }

    /// Charges the store for the requests of this partition that the local store admitted.
    fn charge_unsent(&self, partition: &StoreKey, set: &Arc<PolicySet>) {
        let Some(local) = self.local.as_ref().filter(|_| self.store.can_settle()) else {
            return;
        };
        let Some(local_set) = self.local_of(set) else {
            return;
        };
        if let Some(payment) = local.payment(partition, local_set) {
            let (store, set) = (Arc::clone(&self.beside), Arc::clone(set));
            self.run(Box::pin(payment.send(store, set)));
        }
    }

    /// Returns the store that answered, and its decisions.
    fn answered<'a>(&self, answer: Answer<'a>) -> Option<(Arc<dyn RateLimitStore>, &'a Decisions)> {
        let store: Arc<dyn RateLimitStore> = match answer {
            Answer::Store(_) => Arc::clone(&self.beside),
            Answer::Local(..) => Arc::clone(self.local.as_ref()?) as Arc<dyn RateLimitStore>,
            Answer::Failed(_) => return None,
        };
        Some((store, answer.decisions()?))
    }

    /// Asks the local store, if there is one, on the local set.
    pub(super) fn take_locally(
        &self,
        partition: &StoreKey,
        local: &PolicySet,
        head: &RequestHead<'_>,
    ) -> Option<StoreFuture<Decisions>> {
        let store = self.local.as_ref()?;
        Some(self.take_from(&**store, partition, local, head))
    }

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
    pub(super) fn rule(&self, answer: Answer<'_>, partition: &StoreKey, set: &PolicySet) -> Ruling {
        let (decisions, exceeded): (_, Exceeded) = match answer {
            Answer::Store(decisions) => (decisions, quota_exceeded),
            Answer::Local(decisions, _) => (decisions, local_quota_exceeded),
            Answer::Failed(_) if self.fails_open(set) => return Ruling::Admit(Lines::None),
            Answer::Failed(_) => return Ruling::Reject(Box::new(store_failed()), Lines::None),
        };
        let (policies, each) = (set.policies(), decisions.each());
        let lines = Lines::new(self.fields, policies, set.texts(), decisions.at(), each);
        if decisions.is_admitted() {
            Ruling::Admit(lines)
        } else {
            let rejection = exceeded(set, decisions, self.jitter(partition));
            Ruling::Reject(Box::new(rejection), lines)
        }
    }

    fn fails_open(&self, set: &PolicySet) -> bool {
        match set.failing() {
            Failing::Open => return true,
            Failing::Closed => return false,
            Failing::AsConfigured => {}
        }
        match self.on_store_error {
            OnStoreError::Allow => true,
            OnStoreError::Local { .. } | OnStoreError::Deny => false,
        }
    }

    /// Returns the partition's own part of the jitter: always the same, and another than most
    /// others'. It is made of both halves of the digest, neither of which it so shows to anybody.
    fn jitter(&self, partition: &StoreKey) -> Duration {
        let [.., low, _, _, _, _, _, _, _, high] = *partition.as_bytes();
        self.retry_jitter.saturating_mul(u32::from(low ^ high)) / 255
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
            Answer::Failed(kind) if self.fails_open(set) => {
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

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("store", &self.store)
            .field("partition", &self.partition)
            .field("sets", &self.sets)
            .finish_non_exhaustive()
    }
}

/// Returns charges of so much to each policy.
fn charges(set: &PolicySet, cost: u64) -> SmallVec<[Charge<'_>; 4]> {
    let policies = set.policies().iter();
    policies.map(|policy| Charge::new(policy, cost)).collect()
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
    exceeded(set, decisions).retry_after(longest_wait(set, decisions).saturating_add(jitter))
}

/// The same where the store failed. What costs more than an instance's share will be admitted once
/// the store is back: there is no never, and such a wait is no more than a guess.
fn local_quota_exceeded(set: &PolicySet, decisions: &Decisions, jitter: Duration) -> Rejection {
    let wait = longest_wait(set, decisions).max(STORE_RETRY_AFTER);
    exceeded(set, decisions).retry_after(wait.saturating_add(jitter))
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

/// Told once: a list that a function chooses is not known when the limiter is built.
const NOTHING_TO_WAIT_BY: &str = "a function chose a rate limit with a queue, and there is nothing \
    to wait by: give the limiter a `runtime`, or turn on the feature `tokio`";

fn nothing_to_wait_by() -> Rejection {
    Rejection::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "rate-limit-misconfigured",
        "The server cannot let requests wait for their turn",
    )
}

fn address_unknown() -> Rejection {
    Rejection::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "client-address-unknown",
        "The server does not know who is connected",
    )
}
