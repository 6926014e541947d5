//! The cache service: looks up each response, and calls the handler on a miss.

use std::{
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower::Service;

use super::{
    config::Config,
    exchange::exchange::Exchange,
    fill::body::CacheBody,
    future::future::ResponseFuture,
    lookup::{plan::RequestPlan, search::Search, step::LookupOutcome},
};
use crate::core::{error::BoxError, service_accessors::service_accessors};

/// Middleware that serves responses from a store. Created by [`CacheLayer`](super::CacheLayer).
#[derive(Clone, Debug)]
pub struct Cache<S> {
    pub(super) inner: S,
    /// If `None`, requests and responses pass uncached.
    pub(super) config: Option<Arc<Config>>,
}

service_accessors!(Cache<S>);

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for Cache<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send,
    ReqBody: Body + Send + 'static,
    ResBody: Body<Data = Bytes> + Send + 'static,
    ResBody::Error: Into<BoxError> + Send,
{
    type Response = Response<CacheBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, ReqBody, ResBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let Self { inner, config } = self;
        let Some(config) = config else {
            return ResponseFuture::passing(inner.call(request));
        };
        let mut plan = RequestPlan::of(config, &mut request);
        let next = match &mut plan {
            RequestPlan::Pass(..) | RequestPlan::Change(_) => LookupOutcome::Call,
            RequestPlan::Look(look) => {
                let mut search = Search { config, look };
                match search.go_on(None, &mut request) {
                    LookupOutcome::Response(response) => {
                        return ResponseFuture::served(search.show(response, &request));
                    }
                    LookupOutcome::ServeAndRefresh(stale, leased) => {
                        let exchange = Exchange::past(config, plan, &mut request);
                        let ready = take_ready(inner);
                        return ResponseFuture::refreshing(
                            exchange, *stale, leased, ready, request,
                        );
                    }
                    next @ (LookupOutcome::Call | LookupOutcome::Wait(_)) => next,
                }
            }
        };
        let mut exchange = Exchange::past(config, plan, &mut request);
        if let LookupOutcome::Wait(waiting) = next {
            return ResponseFuture::waiting(exchange, waiting, take_ready(inner), request);
        }
        // An in-memory store replies immediately, so the service that was polled ready is called in
        // place.
        exchange.prepare(&mut request);
        let service = exchange.may_ask_again().then(|| Box::new(inner.clone()));
        ResponseFuture::calling(exchange, inner.call(request), service)
    }
}

/// Takes the service that was polled ready, and leaves a clone that was not.
fn take_ready<S: Clone>(inner: &mut S) -> S {
    let clone = inner.clone();
    mem::replace(inner, clone)
}
