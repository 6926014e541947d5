//! The request to the handler.

use http::{Method, Request, StatusCode};

use super::{
    exchange::{Course, Exchange},
    forwarded_request::{ForwardedRequest, RequestForm, RequestLine},
};
use crate::cache::{
    config::Config,
    http::revalidation,
    lookup::{
        facts::Wanted,
        look::{Look, LookupRole},
    },
};

impl Exchange {
    /// Prepares the call of the handler.
    pub(crate) fn prepare<B: 'static>(&mut self, request: &mut Request<B>) {
        let Course::Look(asked) = &mut self.course else {
            return;
        };
        // A background refresh does not belong to the record of the request.
        if asked.look.refreshes() {
            self.record = None;
        }
        if asked.look.failure().is_some() {
            asked.question = RequestForm::AsIs;
            return;
        }
        asked.fields.keep(request.headers());
        let can_repeat = self.config.empty_bodies.can_make::<B>();
        let question = asked.look.next_question(&self.config, can_repeat);
        asked.pose(question, can_repeat, request);
    }

    /// Returns a copy of the client's request.
    pub(crate) fn client_request<B: 'static>(&self) -> Option<Request<B>> {
        match &self.course {
            Course::Look(asked) => asked.request(&self.config),
            Course::Pass(..) | Course::Change(_) => None,
        }
    }

    /// Prepares another call of the handler, and returns its request.
    pub(crate) fn ask_again<B: 'static>(&mut self) -> Option<Request<B>> {
        let Course::Look(asked) = &mut self.course else {
            return None;
        };
        let mut request = asked.request(&self.config)?;
        let question = asked.question;
        asked.pose(question, false, &mut request);
        Some(request)
    }

    /// Returns `true` if the request to the handler may be repeated.
    pub(crate) fn may_ask_again(&self) -> bool {
        matches!(&self.course, Course::Look(asked) if asked.again.is_some())
    }
}

impl Look {
    /// Returns the form of the request to the handler.
    ///
    /// A lone HEAD or range request is forwarded unchanged: the whole response would cost the
    /// origin more than the client requested. If other requests wait, the whole response is
    /// requested for all of them.
    fn next_question(&self, config: &Config, can_repeat: bool) -> RequestForm {
        let leads = self.leads.as_ref();
        let leads_waiters = || leads.is_some_and(|leads| leads.lead.has_waiters());
        let wanted = self.wanted();
        let is_alone = matches!(self.role, LookupRole::Alone | LookupRole::Filled(_));
        let is_stored_part = wanted == Wanted::Range && config.rules.cache_partial_content;
        let is_lone_part = wanted == Wanted::Range && !leads_waiters();
        if self.facts.precondition || (wanted.is_head() && !leads_waiters()) {
            RequestForm::AsIs
        } else if self.can_validate() {
            RequestForm::Validate
        } else if wanted == Wanted::Whole {
            RequestForm::Whole
        } else if is_alone
            || is_stored_part
            || is_lone_part
            || self.facts.asks.no_store
            || !can_repeat
        {
            RequestForm::AsIs
        } else {
            RequestForm::Whole
        }
    }
}

impl ForwardedRequest {
    /// Returns the origin's status, if the client may receive another one.
    pub(super) fn forward_status(&self, status: StatusCode) -> Option<StatusCode> {
        (self.question == RequestForm::Validate).then_some(status)
    }

    /// Returns `true` if the handler received a request for the whole response, but the client
    /// requested a range, a comparison, or the head.
    pub(super) fn is_wider_than_requested(&self) -> bool {
        self.question != RequestForm::AsIs && self.look.wanted() != Wanted::Whole
    }

    /// Turns a request into the given form, and copies the request if it may be repeated.
    fn pose<B>(&mut self, question: RequestForm, can_repeat: bool, request: &mut Request<B>) {
        self.question = question;
        let may_ask_again = match question {
            RequestForm::AsIs => false,
            RequestForm::Whole => self.look.wanted() != Wanted::Whole,
            RequestForm::Validate => true,
        };
        if may_ask_again && can_repeat {
            self.again = Some(Box::new(RequestLine {
                method: request.method().clone(),
                uri: request.uri().clone(),
                version: request.version(),
                extensions: request.extensions().clone(),
            }));
        }
        match (question, self.look.stale()) {
            (RequestForm::AsIs, _) => return,
            (RequestForm::Validate, Some(stale)) => {
                revalidation::ask(request, &stale.entry.headers);
            }
            (RequestForm::Whole, _) if self.look.wanted() == Wanted::Whole => return,
            (RequestForm::Validate | RequestForm::Whole, _) => revalidation::want_all(request),
        }
        *request.method_mut() = Method::GET;
    }
}
