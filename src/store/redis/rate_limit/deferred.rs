//! Deferred charges, which are requests that were admitted locally and have not yet been reported
//! to the server.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use smallvec::SmallVec;

use crate::{
    core::{
        error::{StoreError, StoreErrorKind},
        store_api::store_key::StoreKey,
        time::Timestamp,
    },
    rate_limit::{
        Policy, SyncMode,
        backend::{Charge, Decisions, State, decide_all},
    },
};

/// The maximum number of partitions with deferred charges.
const PARTITIONS_MAX: usize = 10_000;

/// The maximum delay of a report.
const UNREPORTED_MAX: Duration = Duration::from_secs(1);

/// The time after which the state of an unused partition is removed.
const UNUSED_MAX: Duration = Duration::from_secs(2);

/// The deferred charges for each partition and policy.
///
/// The total amount that is unreported, being reported, or possibly lost never exceeds the maximum
/// of the policy's sync mode. Beyond that maximum, the server decides. Each instance therefore
/// admits at most that amount after the quota is spent, regardless of the age of its copy of the
/// server's state.
#[derive(Debug, Default)]
pub(super) struct DeferredCharges {
    // Outside of the lock, so that it is not taken without deferred charges.
    count: AtomicUsize,
    held: Mutex<HashMap<StoreKey, SmallVec<[DeferredCharge; 1]>>>,
}

/// The deferred charges of one policy.
#[derive(Debug)]
struct DeferredCharge {
    policy: Policy,
    most: u64,
    view: Option<View>,
    unreported: u64,
    on_its_way: u64,
    /// The amounts of reports that may not have arrived. These amounts count until
    /// `uncertain_until`.
    uncertain: u64,
    uncertain_until: Timestamp,
    /// The time since which an amount has been unreported.
    since: Timestamp,
    used_at: Timestamp,
}

/// The server's state, including later local charges.
#[derive(Clone, Copy, Debug)]
struct View {
    state: State,
    /// The server's time when it replied, and the local time before the call.
    at: Timestamp,
    asked_at: Timestamp,
}

/// A request that was admitted locally.
#[derive(Debug)]
pub(super) struct Spent {
    pub(super) decisions: Decisions,
    /// `true` if a report is due.
    pub(super) is_due: bool,
}

/// A report to the server, which contains the amount for each policy.
pub(super) type Report = SmallVec<[(Policy, u64); 1]>;

/// The effect of a call that received an error reply or whose reply was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The call charged nothing.
    NotCharged,
    /// The call may have charged, so the call is not repeated.
    Unknown,
}

impl Fate {
    /// Returns the effect of a call that failed.
    pub(super) fn of(error: &StoreError) -> Self {
        match error.kind() {
            StoreErrorKind::Unavailable | StoreErrorKind::Full | StoreErrorKind::Misconfigured => {
                Self::NotCharged
            }
            StoreErrorKind::Timeout
            | StoreErrorKind::Conflict
            | StoreErrorKind::NotFound
            | StoreErrorKind::Corrupt => Self::Unknown,
        }
    }
}

/// Returns `true` if a request can be admitted locally, which is the case if all of its policies
/// are deferred.
pub(super) fn may_defer(charges: &[Charge<'_>]) -> bool {
    !charges.is_empty()
        && charges
            .iter()
            .all(|charge| most_of(charge.policy).is_some())
}

fn most_of(policy: &Policy) -> Option<u64> {
    match policy.sync_mode() {
        SyncMode::Deferred {
            max_unreported: most,
        } => Some(most.get().into()),
        SyncMode::Exact | SyncMode::Leased { .. } => None,
    }
}

impl View {
    /// Returns a lower bound for the server's current time.
    fn server_now(&self, now: Timestamp) -> Timestamp {
        self.at + (now - self.asked_at)
    }

    fn is_alive(&self, now: Timestamp) -> bool {
        self.state.is_alive(self.server_now(now))
    }
}

/// Returns the states of the charged policies and the server's time. Returns `None` if a state is
/// unknown, or if a cost exceeds the maximum of the policy's deferred charges.
fn states_of(
    deferred: &[DeferredCharge],
    charges: &[Charge<'_>],
    now: Timestamp,
) -> Option<(SmallVec<[State; 4]>, Timestamp)> {
    let (mut states, mut at) = (SmallVec::new(), Timestamp::EPOCH);
    for charge in charges {
        let entry = deferred.iter().find(|entry| entry.is_for(charge.policy))?;
        let view = entry.view.filter(|view| view.is_alive(now))?;
        if !entry.has_room_for(charge.cost, now) {
            return None;
        }
        at = at.max(view.server_now(now));
        states.push(view.state);
    }
    Some((states, at))
}

impl DeferredCharge {
    fn new(policy: Policy, most: u64, view: View, now: Timestamp) -> Self {
        Self {
            policy,
            most,
            view: Some(view),
            unreported: 0,
            on_its_way: 0,
            uncertain: 0,
            uncertain_until: Timestamp::EPOCH,
            since: now,
            used_at: now,
        }
    }

    /// Adds a deferred charge that `state` already includes.
    fn admit(&mut self, charged: u64, state: State, now: Timestamp) {
        if let Some(view) = &mut self.view {
            view.state = state;
        }
        self.used_at = now;
        if charged == 0 {
            return;
        }
        if self.unreported == 0 {
            self.since = now;
        }
        self.unreported += charged;
    }

    /// Replaces the view with a newer one, and adds the charges that the server has not yet
    /// received.
    fn update(&mut self, view: View, now: Timestamp) {
        // Replies may arrive out of order. Then neither view is certain.
        if self.view.is_some_and(|known| view.at < known.at) {
            self.view = None;
            return;
        }
        self.expire_windows(now);
        let state = match self.unreported + self.on_its_way {
            0 => view.state,
            own => self.policy.charge(view.state, view.at, own),
        };
        self.view = Some(View { state, ..view });
    }

    fn is_for(&self, policy: &Policy) -> bool {
        self.policy.id() == policy.id() && self.policy.terms() == policy.terms()
    }

    fn has_room_for(&self, cost: u64, now: Timestamp) -> bool {
        let held = self.unreported + self.on_its_way + self.uncertain(now);
        held.saturating_add(cost) <= self.most
    }

    fn uncertain(&self, now: Timestamp) -> u64 {
        match now < self.uncertain_until {
            true => self.uncertain,
            false => 0,
        }
    }

    /// Counts an amount that may not have been charged, until the server's state would have
    /// expired.
    fn doubt(&mut self, amount: u64, now: Timestamp) {
        let two_windows = self.policy.quota().window().saturating_mul(2);
        let until = match self.view.take() {
            Some(view) => now + (view.state.expires_at() - view.server_now(now)),
            None => now + two_windows,
        };
        self.uncertain = self.uncertain(now) + amount;
        self.uncertain_until = self.uncertain_until.max(until);
    }

    /// Returns `true` once half of the maximum is unreported. The other half can be used while the
    /// report is being sent.
    fn is_due(&self) -> bool {
        self.on_its_way == 0 && self.unreported >= self.most.div_ceil(2)
    }

    /// Removes charges whose window has ended, so that no later window counts those charges.
    fn expire_windows(&mut self, now: Timestamp) {
        let is_over = self.view.is_some_and(|view| !view.is_alive(now));
        if is_over && matches!(self.policy.terms().letter(), 'w' | 'a' | 'm' | 'y') {
            self.unreported = 0;
        }
    }

    fn is_of_use(&self, now: Timestamp) -> bool {
        let is_known = self.view.is_some_and(|view| view.is_alive(now));
        let is_used = is_known && now < self.used_at + UNUSED_MAX;
        let is_outstanding = self.unreported > 0 || self.on_its_way > 0;
        is_outstanding || self.uncertain(now) > 0 || is_used
    }

    /// Marks the unreported amount as being reported, and returns the amount.
    fn send(&mut self) -> Option<(Policy, u64)> {
        if self.unreported == 0 || self.on_its_way > 0 {
            return None;
        }
        self.on_its_way = std::mem::take(&mut self.unreported);
        Some((self.policy.clone(), self.on_its_way))
    }
}

impl DeferredCharges {
    /// Admits a request if the known states have enough remaining quota and the maximum of deferred
    /// charges permits it.
    pub(super) fn spend(
        &self,
        partition: &StoreKey,
        charges: &[Charge<'_>],
        now: Timestamp,
    ) -> Option<Spent> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut held = self.lock();
        let deferred = held.get_mut(partition)?;
        let (mut states, at) = states_of(deferred, charges, now)?;
        let decisions = decide_all(charges, &mut states, at);
        if !decisions.is_admitted() {
            return None;
        }
        let mut is_due = false;
        for ((charge, decision), state) in charges.iter().zip(decisions.each()).zip(states) {
            let entry = deferred
                .iter_mut()
                .find(|entry| entry.is_for(charge.policy))?;
            let charged = match decision.is_admitted() {
                true => charge.cost,
                false => 0,
            };
            entry.admit(charged, state, now);
            is_due |= entry.is_due();
        }
        Some(Spent { decisions, is_due })
    }

    /// Updates the states of policies from a reply of the server, which has charged a report
    /// atomically.
    ///
    /// The times are the server's time when it replied, the local time before the call, and the
    /// current local time.
    pub(super) fn learn(
        &self,
        partition: StoreKey,
        report: &Report,
        known: impl IntoIterator<Item = (Policy, State)>,
        [at, asked_at, now]: [Timestamp; 3],
    ) {
        let mut held = self.lock();
        if held.len() >= PARTITIONS_MAX && !held.contains_key(&partition) {
            return;
        }
        let deferred = held.entry(partition).or_default();
        for (policy, amount) in report {
            if let Some(entry) = deferred.iter_mut().find(|entry| entry.is_for(policy)) {
                entry.on_its_way -= entry.on_its_way.min(*amount);
            }
        }
        for (policy, state) in known {
            let Some(most) = most_of(&policy) else {
                continue;
            };
            let view = View {
                state,
                at,
                asked_at,
            };
            match deferred.iter_mut().find(|entry| entry.is_for(&policy)) {
                Some(entry) => entry.update(view, now),
                None => {
                    deferred.retain(|entry| entry.policy.id() != policy.id());
                    deferred.push(DeferredCharge::new(policy, most, view, now));
                }
            }
        }
        self.count.store(held.len(), Ordering::Relaxed);
    }

    /// Takes the unreported amounts of a partition.
    pub(super) fn take(&self, partition: &StoreKey, now: Timestamp) -> Report {
        let mut held = self.lock();
        let deferred = held.get_mut(partition).into_iter().flatten();
        deferred
            .filter_map(|entry| {
                entry.expire_windows(now);
                entry.send()
            })
            .collect()
    }

    /// Takes the amounts whose reports are overdue, and removes partitions that are not in use.
    pub(super) fn take_late(&self, now: Timestamp) -> Vec<(StoreKey, Report)> {
        self.take_each(now, |entry| now >= entry.since + UNREPORTED_MAX)
    }

    /// Takes all unreported amounts.
    pub(super) fn take_all(&self, now: Timestamp) -> Vec<(StoreKey, Report)> {
        self.take_each(now, |_| true)
    }

    fn take_each(
        &self,
        now: Timestamp,
        is_meant: impl Fn(&DeferredCharge) -> bool,
    ) -> Vec<(StoreKey, Report)> {
        let mut reports = Vec::new();
        let mut held = self.lock();
        held.retain(|partition, deferred| {
            deferred
                .iter_mut()
                .for_each(|entry| entry.expire_windows(now));
            let meant = deferred.iter_mut().filter(|entry| is_meant(entry));
            let report: Report = meant.filter_map(DeferredCharge::send).collect();
            if !report.is_empty() {
                reports.push((*partition, report));
            }
            deferred.retain(|entry| entry.is_of_use(now));
            !deferred.is_empty()
        });
        self.count.store(held.len(), Ordering::Relaxed);
        reports
    }

    /// Records that a report was not charged, or that its effect is unknown.
    pub(super) fn lost(&self, partition: &StoreKey, report: &Report, fate: Fate, now: Timestamp) {
        let mut held = self.lock();
        let Some(deferred) = held.get_mut(partition) else {
            return;
        };
        for (policy, amount) in report {
            let Some(entry) = deferred.iter_mut().find(|entry| entry.is_for(policy)) else {
                continue;
            };
            entry.on_its_way -= entry.on_its_way.min(*amount);
            match fate {
                Fate::NotCharged => {
                    entry.unreported += amount;
                    entry.since = now;
                }
                Fate::Unknown => entry.doubt(*amount, now),
            }
        }
    }

    /// Discards the deferred charges of a partition that is being reset.
    pub(super) fn forget(&self, partition: &StoreKey, policies: &[&Policy]) {
        let mut held = self.lock();
        for entry in held.get_mut(partition).into_iter().flatten() {
            if policies
                .iter()
                .any(|policy| policy.id() == entry.policy.id())
            {
                (entry.view, entry.unreported, entry.uncertain) = (None, 0, 0);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StoreKey, SmallVec<[DeferredCharge; 1]>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::*;

    use super::*;
    use crate::{core::store_api::store_key::StoreKeys, rate_limit::Quota};

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_micros(millis * 1_000)
    }

    fn partition() -> StoreKey {
        StoreKeys::from_secret(&[7; 32])
            .unwrap()
            .space("deferred")
            .short_key(b"x")
    }

    fn policy(limit: u64) -> Policy {
        let most = NonZeroU32::new(4).unwrap();
        Policy::aligned_window("p", Quota::per_minute(limit))
            .unwrap()
            .with_sync_mode(SyncMode::Deferred {
                max_unreported: most,
            })
    }

    /// Records a reply with this usage, at the same time on the server and locally.
    fn learn(deferred: &DeferredCharges, policy: &Policy, used: u64, millis: u64) {
        let state = policy.charge(State::NONE, at(millis), used);
        let times = [at(millis), at(millis), at(millis)];
        deferred.learn(
            partition(),
            &Report::new(),
            [(policy.clone(), state)],
            times,
        );
    }

    /// Records the reply to a report, with the total usage.
    fn charged(
        deferred: &DeferredCharges,
        policy: &Policy,
        report: &Report,
        used: u64,
        millis: u64,
    ) {
        let state = policy.charge(State::NONE, at(millis), used);
        let times = [at(millis), at(millis), at(millis)];
        deferred.learn(partition(), report, [(policy.clone(), state)], times);
    }

    /// Returns the number of requests that are admitted locally, one after another.
    fn admitted(deferred: &DeferredCharges, policy: &Policy, millis: u64) -> usize {
        let charge = [Charge::new(policy, 1)];
        let spend = || deferred.spend(&partition(), &charge, at(millis));
        (0..100).take_while(|_| spend().is_some()).count()
    }

    #[test]
    fn local_admissions_stay_within_max_unreported_during_reports() {
        let (deferred, policy) = (DeferredCharges::default(), policy(100));
        assert_eq!(admitted(&deferred, &policy, 0), 0);
        learn(&deferred, &policy, 1, 0);
        assert_eq!(admitted(&deferred, &policy, 0), 4);
        let report = deferred.take(&partition(), at(0));
        assert_eq!(report[0].1, 4);
        assert_eq!(admitted(&deferred, &policy, 0), 0);
        assert!(deferred.take(&partition(), at(0)).is_empty());
        charged(&deferred, &policy, &report, 5, 1);
        assert_eq!(admitted(&deferred, &policy, 1), 4);
    }

    #[test]
    fn no_more_is_admitted_than_is_left_by_what_is_known() {
        let (deferred, policy) = (DeferredCharges::default(), policy(10));
        learn(&deferred, &policy, 8, 0);
        assert_eq!(admitted(&deferred, &policy, 0), 2);
        // An equal reply does not include those charges yet.
        learn(&deferred, &policy, 8, 1);
        assert_eq!(admitted(&deferred, &policy, 1), 0);
        // A reply that a later one has overtaken is not used.
        learn(&deferred, &policy, 1, 0);
        assert_eq!(admitted(&deferred, &policy, 1), 0);
    }

    #[test]
    fn report_is_due_at_half_the_maximum_and_after_one_second() {
        let (deferred, policy) = (DeferredCharges::default(), policy(100));
        learn(&deferred, &policy, 1, 0);
        let charge = [Charge::new(&policy, 1)];
        let due = || {
            let spent = deferred.spend(&partition(), &charge, at(0)).unwrap();
            spent.is_due
        };
        assert_eq!([due(), due(), due()], [false, true, true]);
        assert!(deferred.take_late(at(999)).is_empty());
        let late = deferred.take_late(at(1_000));
        assert_eq!(late[0].1[0].1, 3);
        charged(&deferred, &policy, &late[0].1, 4, 1_000);
        deferred.take_late(at(1_999));
        assert!(!deferred.is_empty());
        deferred.take_late(at(2_000));
        assert!(deferred.is_empty());
    }

    #[test]
    fn uncharged_reports_are_resent_and_uncertain_reports_are_not() {
        let (deferred, policy) = (DeferredCharges::default(), policy(100));
        learn(&deferred, &policy, 1, 0);
        assert_eq!(admitted(&deferred, &policy, 0), 4);
        let report = deferred.take(&partition(), at(0));
        deferred.lost(&partition(), &report, Fate::NotCharged, at(1));
        let again = deferred.take(&partition(), at(1));
        assert_eq!(again[0].1, 4);
        deferred.lost(&partition(), &again, Fate::Unknown, at(2));
        assert!(deferred.take(&partition(), at(2)).is_empty());
        // The state is unknown until the next reply.
        assert_eq!(admitted(&deferred, &policy, 2), 0);
        // The amount counts until its window ends, since other instances may not see it.
        learn(&deferred, &policy, 1, 3);
        assert_eq!(admitted(&deferred, &policy, 3), 0);
        deferred.take_late(at(59_999));
        assert!(!deferred.is_empty());
        learn(&deferred, &policy, 1, 60_000);
        assert_eq!(admitted(&deferred, &policy, 60_000), 4);
    }

    /// Instances that share one server, with reports and replies that are lost.
    struct Instances {
        deferred: [DeferredCharges; 3],
        on_their_way: Vec<(usize, Report)>,
        policies: Vec<Policy>,
        server: Vec<State>,
        admitted: u64,
    }

    impl Instances {
        fn request(&mut self, which: usize, now: u64, is_lost: bool) {
            let Self {
                deferred, policies, ..
            } = self;
            let charges: Vec<_> = policies.iter().map(|it| Charge::new(it, 1)).collect();
            if let Some(spent) = deferred[which].spend(&partition(), &charges, at(now)) {
                self.admitted += 1;
                if spent.is_due {
                    let report = deferred[which].take(&partition(), at(now));
                    self.on_their_way.push((which, report));
                }
            } else if !is_lost {
                let decisions = decide_all(&charges, &mut self.server, at(now));
                self.admitted += u64::from(decisions.is_admitted());
                self.reply(which, &Report::new(), now);
            }
        }

        fn reply(&self, which: usize, report: &Report, now: u64) {
            let known = self.policies.iter().cloned().zip(self.server.clone());
            self.deferred[which].learn(partition(), report, known, [at(now); 3]);
        }

        /// Delivers a report and its reply, or loses one of them.
        fn report(&mut self, number: usize, now: u64, arrives: bool, is_acknowledged: bool) {
            let (which, report) = self.on_their_way.swap_remove(number);
            for (policy, amount) in report.iter().filter(|_| arrives) {
                let place = self.policies.iter().position(|it| it.id() == policy.id());
                let state = &mut self.server[place.unwrap()];
                *state = policy.charge(*state, at(now), *amount);
            }
            match (arrives, is_acknowledged) {
                (true, true) => self.reply(which, &report, now),
                (false, true) => self.lost(which, &report, Fate::NotCharged, now),
                (_, false) => self.lost(which, &report, Fate::Unknown, now),
            }
        }

        fn lost(&self, which: usize, report: &Report, fate: Fate, now: u64) {
            self.deferred[which].lost(&partition(), report, fate, at(now));
        }
    }

    proptest! {
        #[test]
        fn lost_reports_and_replies_never_exceed_max_unreported(
            which in prop::collection::vec(0_usize..4, 1..4),
            steps in prop::collection::vec((0_usize..3, 0_u64..3, any::<[bool; 3]>()), 300..600),
        ) {
            let quota = Quota::per_day(60);
            let most = NonZeroU32::new(6).unwrap();
            let policies = which.iter().enumerate().map(|(number, which)| {
                let make = [
                    Policy::fixed_window,
                    Policy::aligned_window,
                    Policy::sliding_window,
                    Policy::token_bucket,
                ][*which];
                let policy = make(&number.to_string(), quota).unwrap();
                policy.with_sync_mode(SyncMode::Deferred { max_unreported: most })
            });
            let policies: Vec<Policy> = policies.collect();
            let mut scene = Instances {
                deferred: Default::default(),
                on_their_way: Vec::new(),
                server: vec![State::NONE; policies.len()],
                admitted: 0,
                policies,
            };
            let mut now = 1_000;
            for (which, pause, [is_lost, arrives, is_acknowledged]) in steps {
                now += pause;
                scene.request(which, now, is_lost);
                if !scene.on_their_way.is_empty() && pause == 0 {
                    let number = which % scene.on_their_way.len();
                    scene.report(number, now, arrives, is_acknowledged);
                }
            }
            prop_assert!(scene.admitted <= 60 + 3 * 6, "{}", scene.admitted);
        }
    }

    #[test]
    fn no_window_is_charged_for_the_one_before() {
        let (deferred, policy) = (DeferredCharges::default(), policy(100));
        learn(&deferred, &policy, 1, 0);
        assert_eq!(admitted(&deferred, &policy, 0), 4);
        assert!(deferred.take(&partition(), at(60_000)).is_empty());
        assert_eq!(admitted(&deferred, &policy, 60_000), 0);
    }

    #[test]
    fn one_policy_that_is_exact_makes_all_of_a_request_exact() {
        let (deferrable, quota) = (policy(100), Quota::per_minute(1));
        let exact = Policy::token_bucket("exact", quota).unwrap();
        let charge = |policy| Charge::new(policy, 1);
        assert!(may_defer(&[charge(&deferrable)]));
        assert!(!may_defer(&[charge(&deferrable), charge(&exact)]));
        assert!(!may_defer(&[]));
    }
}
