//! The fast path: one policy, an in-memory store, and no work after the response.

use std::slice;

use super::{note::Note, ruling::policy_outcome};
use crate::{
    core::{
        record::{RateLimitDecision, RateLimitOutcome, RecordHandle},
        store_api::store_key::StoreKey,
        time::Timestamp,
    },
    rate_limit::{
        config::RateLimitConfig,
        decision::{charge::Charge, decision::Decision},
        headers::{LimitLines, RateLimitFields},
        policy::{policy::Policy, policy_set::PolicySet},
        request_head::RequestHead,
    },
};

/// The result of the fast path.
pub(in crate::rate_limit) enum FastAdmission {
    /// Admitted, with no further work.
    Plain,
    /// Admitted; the note is applied to the response.
    Noted(Note),
    /// The request takes the slow path. The request was not charged. No application function was
    /// called, so none is called twice.
    NotTaken,
}

/// A request that the fast path can decide.
struct Candidate<'a> {
    set: &'a PolicySet,
    policy: &'a Policy,
    partition: StoreKey,
}

impl FastAdmission {
    /// Decides a request on the fast path.
    // Not generic over the inner service, and kept out of the stack frame of `call`.
    #[inline(never)]
    pub(in crate::rate_limit) fn decide(config: &RateLimitConfig, head: &RequestHead<'_>) -> Self {
        let Some(candidate) = Candidate::of(config, head) else {
            return Self::NotTaken;
        };
        let charge = Charge::new(candidate.policy, 1);
        let store = &config.stores.options.store;
        let Some((at, decision)) = &store.try_take_now(&candidate.partition, &charge) else {
            return Self::NotTaken;
        };
        config.stores.note_reply();
        let fields = config.responses.fields;
        let record = RecordHandle::from_extensions(head.extensions);
        if fields == RateLimitFields::Off && record.is_none() {
            return Self::Plain;
        }
        Self::Noted(candidate.note(fields, record, *at, decision))
    }
}

impl<'a> Candidate<'a> {
    // Inlined, so that the key stays in registers.
    #[inline(always)]
    fn of(config: &'a RateLimitConfig, head: &RequestHead<'_>) -> Option<Self> {
        let charging = &config.charging;
        let component = charging.fast.as_ref()?;
        if config.stores.has_unsent() {
            return None;
        }
        let set = charging.sets.choose_first(|| charging.options.tier(head))?;
        Some(Self {
            set,
            policy: set.alone()?,
            partition: component.key(head)?,
        })
    }

    #[inline(never)]
    fn note(
        &self,
        fields: RateLimitFields,
        record: Option<&RecordHandle>,
        at: Timestamp,
        decision: &Decision,
    ) -> Note {
        let (policies, texts) = (self.set.policies(), self.set.texts());
        let lines = LimitLines::new(fields, policies, texts, at, slice::from_ref(decision));
        let outcome = || {
            let policy = policy_outcome(self.policy, decision);
            RateLimitOutcome::single(RateLimitDecision::Allowed, policy)
        };
        Note::admitted(record, lines, outcome)
    }
}
