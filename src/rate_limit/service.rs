//! The service: asks the store, then calls the inner service or answers in its place.

use std::{
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tower::Service;

use super::{
    config::{Answer, Config, Plain, Plan, Ruling, skipped},
    decision::{Decision, Decisions},
    future::{Deciding, Note, ResponseFuture},
    headers::{Lines, RateLimitFields},
    paid::Costs,
    placement,
    policy_set::PolicySet,
    request_head::RequestHead,
};
use crate::{
    body::ResponseBody, record::RecordHandle, rejection::Dialect, store_future::StoreFuture,
    store_key::StoreKey, time::Timestamp,
};

/// Limits how often requests reach the inner service: see the [module](super).
#[derive(Clone, Debug)]
pub struct RateLimit<S> {
    inner: S,
    config: Arc<Config>,
}

impl<S> RateLimit<S> {
    pub(super) fn new(inner: S, config: Arc<Config>) -> Self {
        Self { inner, config }
    }
}

impl<S: Clone> RateLimit<S> {
    /// Takes the service that was polled ready; the clone left behind was not.
    fn take_ready(&mut self) -> S {
        let clone = self.inner.clone();
        mem::replace(&mut self.inner, clone)
    }

    /// Answers a request that there is more to than one word of a store in memory.
    #[inline(never)]
    fn call_at_length<ReqBody, ResBody>(
        &mut self,
        mut request: Request<ReqBody>,
    ) -> ResponseFuture<S, ReqBody>
    where
        S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    {
        if self.config.placement.reads_identity() {
            placement::mark(&self.config, request.extensions_mut());
        }
        let (partition, set) = match self.config.plan(&RequestHead::of(&request)) {
            Plan::Ask(partition, set) => (partition, set),
            Plan::Choose(policies) => {
                return ResponseFuture::choosing(
                    policies,
                    self.take_ready(),
                    request,
                    &self.config,
                );
            }
            Plan::Skip => {
                let note = Note::write(request.extensions(), Lines::None, skipped);
                return ResponseFuture::calling(self.inner.call(request), note);
            }
            Plan::Reject(rejection) => {
                let dialect = Dialect::of(&request);
                let responder = &self.config.responder;
                return ResponseFuture::rejected(*rejection, dialect, responder, Note::default());
            }
        };
        if self.config.is_followed_up(&set) {
            return self.call_in_line(request, partition, set.into_owned());
        }
        let head = RequestHead::of(&request);
        let take = match self.config.take(&partition, &set, &head).into_ready() {
            // A store in memory answers at once: the readied service is called where it stands.
            Ok(Ok(decisions)) => {
                let answer = Answer::Store(&decisions);
                return match self.config.rule(answer, &partition, &set) {
                    Ruling::Admit(lines) => {
                        let outcome = || self.config.outcome(answer, &set);
                        let note = Note::write(request.extensions(), lines, outcome);
                        ResponseFuture::calling(self.inner.call(request), note)
                    }
                    Ruling::Reject(rejection, lines) => {
                        let note = Note::deny(&request, lines, self.config.outcome(answer, &set));
                        let dialect = Dialect::of(&request);
                        ResponseFuture::rejected(*rejection, dialect, &self.config.responder, note)
                    }
                };
            }
            // A failure goes the way of an answer that comes later: there it is seen to.
            Ok(Err(error)) => StoreFuture::failed(error),
            Err(pending) => StoreFuture::Pending(pending),
        };
        self.decide_later(take, request, partition, set.into_owned(), None)
    }

    /// Answers a request that may have to wait for its turn.
    fn call_in_line<B>(
        &mut self,
        request: Request<B>,
        partition: StoreKey,
        set: Arc<PolicySet>,
    ) -> ResponseFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        let head = RequestHead::of(&request);
        let costs = self.config.costs(&set, &head);
        let take = self.config.take_costs(&partition, &set, &costs, &head);
        self.decide_later(take, request, partition, set, Some(costs))
    }

    /// Waits for the store's answer. The future calls the service that was polled ready; the clone
    /// left behind was not.
    fn decide_later<B>(
        &mut self,
        take: StoreFuture<Decisions>,
        request: Request<B>,
        partition: StoreKey,
        set: Arc<PolicySet>,
        costs: Option<Costs>,
    ) -> ResponseFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        let clone = self.inner.clone();
        let ready = mem::replace(&mut self.inner, clone);
        ResponseFuture::deciding(Deciding {
            take,
            failed: None,
            ready,
            request,
            config: Arc::clone(&self.config),
            partition,
            set,
            costs,
        })
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for RateLimit<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, ReqBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        if self.config.placement.is_open() {
            placement::check(&self.config, request.extensions_mut());
        }
        match Short::way(&self.config, &RequestHead::of(&request)) {
            Short::Plain => ResponseFuture::plain(self.inner.call(request)),
            Short::Telling(note) => ResponseFuture::calling(self.inner.call(request), note),
            Short::None => self.call_at_length(request),
        }
    }
}

/// What comes of a request on the short way.
enum Short {
    /// It goes on, and that is all.
    Plain,
    /// It goes on, and this is left to do.
    Telling(Note),
    /// It has to go the long way.
    None,
}

impl Short {
    // The same for all inner services, and not in the frame of any.
    #[inline(never)]
    fn way(config: &Config, head: &RequestHead<'_>) -> Self {
        let Some(plain) = config.plain(head) else {
            return Self::None;
        };
        let Some((at, said)) = &plain.admit(config) else {
            return Self::None;
        };
        config.watch.answered_at_once();
        if config.fields == RateLimitFields::Off && RecordHandle::of(head.extensions).is_none() {
            return Self::Plain;
        }
        Self::telling(config, head, &plain, *at, said)
    }

    #[inline(never)]
    fn telling(
        config: &Config,
        head: &RequestHead<'_>,
        plain: &Plain<'_>,
        at: Timestamp,
        said: &Decision,
    ) -> Self {
        let lines = plain.lines(config.fields, at, said);
        let outcome = || plain.outcome(said);
        Self::Telling(Note::write(head.extensions, lines, outcome))
    }
}
