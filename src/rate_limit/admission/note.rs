//! The effects of an admission on the response, and the work that follows the response.

use std::{fmt, mem, sync::Arc};

use http::{Extensions, Request, Response, Version};

use super::{charged::Paid, charging::ChargingOptions, settlement::Bill};
use crate::{
    core::{
        http::{
            body::ResponseBody, meant_status::meant_status, rejection::Rejection,
            rejection_target::RejectionTarget,
        },
        record::{RateLimitOutcome, RecordHandle, RecordedRateLimit},
        store_api::store_key::StoreKey,
    },
    rate_limit::{config::RateLimitConfig, headers::LimitLines},
};

/// The effects of an admission on the response.
#[derive(Debug, Default)]
pub(in crate::rate_limit) struct Note {
    lines: LimitLines,
    /// The outcome in the request's record. It is copied to the response, unless an inner limiter
    /// inserted its own outcome.
    recorded: Option<RecordedRateLimit>,
    extra: Option<Box<NoteExtra>>,
}

/// The optional part of a note. Most responses do not need it.
#[derive(Debug, Default)]
struct NoteExtra {
    /// The outcome of a request without a record.
    outcome: Option<RateLimitOutcome>,
    /// The charges that can change.
    bill: Option<Bill>,
    auth: Option<AuthJudgment>,
}

/// The partition to which a denial is charged if the response reports failed authentication.
struct AuthJudgment {
    config: Arc<RateLimitConfig>,
    partition: StoreKey,
    subject: Arc<str>,
    version: Version,
}

/// A rejected request.
pub(in crate::rate_limit) struct RejectedRequest {
    rejection: Rejection,
    target: RejectionTarget,
    note: Note,
}

impl Note {
    /// Creates the note of an admitted request. The outcome is written to the request's record and
    /// copied from there to the response. For a request without a record, no outcome is built.
    #[inline]
    pub(crate) fn admitted(
        record: Option<&RecordHandle>,
        lines: LimitLines,
        outcome: impl FnOnce() -> RateLimitOutcome,
    ) -> Self {
        Self {
            lines,
            recorded: record.map(|record| record.enter_rate_limit(outcome)),
            extra: None,
        }
    }

    /// Creates the note of an admitted request, with the outcome in the request and response
    /// extensions.
    pub(super) fn exposed(
        extensions: &mut Extensions,
        lines: LimitLines,
        outcome: RateLimitOutcome,
    ) -> Self {
        extensions.insert(outcome.clone());
        Self::denied(extensions, lines, outcome)
    }

    /// Creates the note of a rejected request, with the outcome in the response extensions.
    pub(crate) fn denied(
        extensions: &Extensions,
        lines: LimitLines,
        outcome: RateLimitOutcome,
    ) -> Self {
        match RecordHandle::from_extensions(extensions) {
            Some(record) => Self::admitted(Some(record), lines, || outcome),
            None => Self {
                lines,
                recorded: None,
                extra: Some(Box::new(NoteExtra {
                    outcome: Some(outcome),
                    ..NoteExtra::default()
                })),
            },
        }
    }

    /// Returns the outcome, including the decision of each policy.
    fn outcome(&self) -> Option<RateLimitOutcome> {
        match &self.recorded {
            Some(recorded) => recorded.outcome(),
            None => self.extra.as_ref()?.outcome.clone(),
        }
    }

    /// Holds the charges that the response can change.
    pub(super) fn hold<B>(
        &mut self,
        paid: Paid,
        options: &ChargingOptions,
        request: &mut Request<B>,
    ) {
        let bill = Bill::open(paid, options, request);
        self.extra.get_or_insert_default().bill = Some(bill);
    }

    /// Counts a denial against the partition if the response reports failed authentication.
    pub(super) fn judge_auth(
        &mut self,
        config: &Arc<RateLimitConfig>,
        partition: StoreKey,
        subject: Arc<str>,
        version: Version,
    ) {
        self.extra.get_or_insert_default().auth = Some(AuthJudgment {
            config: Arc::clone(config),
            partition,
            subject,
            version,
        });
    }

    /// Applies the note to the response of the inner service.
    #[inline]
    pub(in crate::rate_limit) fn apply<B>(&mut self, response: &mut Response<ResponseBody<B>>) {
        mem::take(&mut self.lines).write_to(response);
        if let Some(recorded) = self.recorded.take() {
            insert_recorded(&recorded, response.extensions_mut());
        }
        if let Some(extra) = self.extra.take() {
            extra.apply(response);
        }
    }
}

impl NoteExtra {
    #[inline(never)]
    fn apply<B>(self, response: &mut Response<ResponseBody<B>>) {
        insert_outcome(self.outcome, response.extensions_mut());
        if let Some(auth) = self.auth {
            auth.judge(response);
        }
        if let Some(bill) = self.bill.and_then(|bill| bill.judge(response)) {
            response.body_mut().guard(bill);
        }
    }
}

/// Inserts the outcome from the record, unless an inner limiter inserted its own outcome.
#[inline(never)]
fn insert_recorded(recorded: &RecordedRateLimit, extensions: &mut Extensions) {
    if extensions.get::<RateLimitOutcome>().is_none()
        && let Some(outcome) = recorded.outcome()
    {
        extensions.insert(outcome);
    }
}

/// Inserts the outcome, unless an inner limiter inserted its own outcome.
fn insert_outcome(outcome: Option<RateLimitOutcome>, extensions: &mut Extensions) {
    if let Some(outcome) = outcome {
        extensions.get_or_insert_with(|| outcome);
    }
}

impl AuthJudgment {
    fn judge<B>(self, response: &Response<B>) {
        let status = meant_status(response, self.version);
        let config = &self.config;
        if let Some(bans) = config.bans.as_ref().filter(|bans| bans.count(status)) {
            bans.count_denial(&config.stores, self.partition, self.subject, &config.audit);
        }
    }
}

impl fmt::Debug for AuthJudgment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthJudgment")
    }
}

impl RejectedRequest {
    pub(crate) fn new(rejection: Rejection, target: RejectionTarget, note: Note) -> Self {
        Self {
            rejection,
            target,
            note,
        }
    }

    pub(in crate::rate_limit) fn into_response<B>(self) -> Response<ResponseBody<B>> {
        let outcome = self
            .target
            .is_custom()
            .then(|| self.note.outcome())
            .flatten();
        let mut response = self.target.respond(&self.rejection, outcome.as_ref());
        let Note {
            lines,
            recorded,
            extra,
        } = self.note;
        lines.write_to(&mut response);
        let extensions = response.extensions_mut();
        if let Some(recorded) = recorded {
            insert_recorded(&recorded, extensions);
        }
        insert_outcome(extra.and_then(|extra| extra.outcome), extensions);
        response
    }
}
