//! The effects of an admission on the response, and the work that follows the response.

use std::{fmt, mem, sync::Arc};

use http::{Extensions, Response, Version};

use super::{charged::Paid, settlement::Bill};
use crate::{
    core::{
        http::{
            body::ResponseBody,
            rejection::{Dialect, Rejection, Responder, meant_status},
        },
        record::{RateLimitOutcome, RecordHandle},
        store_api::store_key::StoreKey,
    },
    rate_limit::{config::RateLimitConfig, headers::LimitLines},
};

/// The effects of an admission on the response.
#[derive(Debug, Default)]
pub(in crate::rate_limit) struct Note {
    lines: LimitLines,
    extra: Option<Box<NoteExtra>>,
}

/// The part of a note that most responses do not need.
#[derive(Debug, Default)]
struct NoteExtra {
    outcome: Option<RateLimitOutcome>,
    // Settles when it is dropped.
    bill: Option<Bill>,
    auth: Option<AuthJudgment>,
}

/// The partition that is charged with a denial if the response tells that authentication failed.
struct AuthJudgment {
    config: Arc<RateLimitConfig>,
    partition: StoreKey,
    subject: Arc<str>,
    version: Version,
}

/// A request that is rejected.
pub(in crate::rate_limit) struct RejectedRequest {
    rejection: Rejection,
    dialect: Dialect,
    responder: Responder,
    note: Note,
}

impl Note {
    /// Creates the note of an admitted request. The outcome is written to the request's record, and
    /// from there to the response; it is not built for a request without a record.
    #[inline]
    pub(crate) fn admitted(
        extensions: &Extensions,
        lines: LimitLines,
        outcome: impl FnOnce() -> RateLimitOutcome,
    ) -> Self {
        match RecordHandle::of(extensions) {
            None => Self { lines, extra: None },
            Some(record) => Self::recorded(record, lines, outcome()),
        }
    }

    /// The same, with the outcome in the extensions of the request and of the response.
    pub(super) fn exposed(
        extensions: &mut Extensions,
        lines: LimitLines,
        outcome: RateLimitOutcome,
    ) -> Self {
        extensions.insert(outcome.clone());
        Self::denied(extensions, lines, outcome)
    }

    /// Creates the note of a rejected request, with the outcome in the extensions of the response.
    pub(crate) fn denied(
        extensions: &Extensions,
        lines: LimitLines,
        outcome: RateLimitOutcome,
    ) -> Self {
        match RecordHandle::of(extensions) {
            None => Self::with_outcome(lines, outcome),
            Some(record) => Self::recorded(record, lines, outcome),
        }
    }

    fn recorded(record: &RecordHandle, lines: LimitLines, outcome: RateLimitOutcome) -> Self {
        record.push_rate_limit(outcome.clone());
        Self::with_outcome(lines, outcome)
    }

    fn with_outcome(lines: LimitLines, outcome: RateLimitOutcome) -> Self {
        let extra = NoteExtra {
            outcome: Some(outcome),
            ..NoteExtra::default()
        };
        Self {
            lines,
            extra: Some(Box::new(extra)),
        }
    }

    /// Settles the charges once the response has ended.
    pub(crate) fn settle(&mut self, paid: Paid, extensions: &mut Extensions) {
        let bill = Bill::open(paid, extensions);
        self.extra.get_or_insert_default().bill = Some(bill);
    }

    /// Counts a denial of the partition if the response tells that authentication failed.
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
    pub(in crate::rate_limit) fn apply<B>(
        &mut self,
        mut response: Response<B>,
    ) -> Response<ResponseBody<B>> {
        mem::take(&mut self.lines).write_to(&mut response);
        match self.extra.take() {
            None => response.map(ResponseBody::inner),
            Some(extra) => extra.apply(response),
        }
    }
}

impl NoteExtra {
    #[inline(never)]
    fn apply<B>(self, mut response: Response<B>) -> Response<ResponseBody<B>> {
        insert_outcome(self.outcome, &mut response);
        if let Some(auth) = self.auth {
            auth.judge(&response);
        }
        match self.bill {
            None => response.map(ResponseBody::inner),
            Some(bill) => response.map(|body| ResponseBody::guarded(body, bill)),
        }
    }
}

/// Inserts the outcome, unless that of a limiter further inside is there.
fn insert_outcome<B>(outcome: Option<RateLimitOutcome>, response: &mut Response<B>) {
    if let Some(outcome) = outcome {
        response.extensions_mut().get_or_insert_with(|| outcome);
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
    pub(crate) fn new(
        rejection: Rejection,
        dialect: Dialect,
        responder: Responder,
        note: Note,
    ) -> Self {
        Self {
            rejection,
            dialect,
            responder,
            note,
        }
    }

    pub(in crate::rate_limit) fn into_response<B>(self) -> Response<ResponseBody<B>> {
        let mut response = self.rejection.into_response(self.dialect, &self.responder);
        self.note.lines.write_to(&mut response);
        insert_outcome(
            self.note.extra.and_then(|extra| extra.outcome),
            &mut response,
        );
        response
    }
}
