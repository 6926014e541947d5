//! The states of an admission, and the results of its steps.

use http::Request;

use super::{
    charged::{Costs, Deposit},
    charging::PolicyLookup,
    note::{Note, RejectedRequest},
    queue::Waiter,
};
use crate::{
    core::{
        http::{rejection::Rejection, rejection_target::RejectionTarget},
        record::{RateLimitDecision, RateLimitOutcome, RecordHandle},
        store_api::{store_future::Pending, store_key::StoreKey},
    },
    rate_limit::{
        config::RateLimitConfig, decision::decision::Decisions, failover::stores::DecidingStore,
        headers::LimitLines, policy::policy_sets::Chosen,
    },
};

/// A pending admission.
///
/// ```text
/// (begin)  => Choosing | Deciding | Queued | end
/// Choosing => Deciding | Queued | end     the lookup of the policies completed
/// Deciding => Deciding | Queued | end     the store replied
/// Queued   => Called                      the turn of the request arrived
/// Called   => end                         the inner service is ready
/// ```
///
/// `Deciding` follows itself at most once: when the main store fails and the local store decides. A
/// reply that is available immediately does not create a pending state.
pub(crate) enum PendingAdmission {
    /// Waits for the policy lookup.
    Choosing(PolicyLookup),
    /// Waits for the reply of a store.
    Deciding(Pending<Decisions>, LimitCheck<'static>),
    /// Waits for its turn in a queue.
    Queued(Waiter, Note),
    /// The turn has arrived; waits until the inner service is ready.
    Called(Deposit, Note),
}

/// A request that is checked by a store.
pub(crate) struct LimitCheck<'a> {
    pub(super) partition: StoreKey,
    pub(super) set: Chosen<'a>,
    pub(super) costs: Costs,
    pub(super) store: DecidingStore,
}

/// The result of one step of an admission.
pub(crate) enum Progress {
    Wait(PendingAdmission),
    End(AdmissionEnd),
}

/// The end of an admission.
pub(crate) enum AdmissionEnd {
    /// Calls the inner service and applies the note to its response.
    Admit(Note),
    /// Returns a rejection without calling the inner service.
    Reject(Box<RejectedRequest>),
}

impl Progress {
    pub(super) fn admit(note: Note) -> Self {
        Self::End(AdmissionEnd::Admit(note))
    }

    /// Admits a request to which no policy applies.
    pub(super) fn exempt<B>(request: &Request<B>) -> Self {
        let skipped = || RateLimitOutcome::new(RateLimitDecision::Skipped, []);
        Self::admit(Note::admitted(
            RecordHandle::from_extensions(request.extensions()),
            LimitLines::None,
            skipped,
        ))
    }

    pub(super) fn reject<B>(
        config: &RateLimitConfig,
        request: &Request<B>,
        rejection: Rejection,
        note: Note,
    ) -> Self {
        let target = RejectionTarget::new(request, config.responses.responder.get());
        let rejected = RejectedRequest::new(rejection, target, note);
        Self::End(AdmissionEnd::Reject(Box::new(rejected)))
    }

    /// Rejects a request that no store decided.
    pub(super) fn reject_undecided<B>(
        config: &RateLimitConfig,
        request: &Request<B>,
        rejection: Rejection,
    ) -> Self {
        Self::reject(config, request, rejection, Note::default())
    }
}
