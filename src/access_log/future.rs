//! The response future of the access log.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::{
    body::AccessLogBody,
    record::{guard::Guard, record::RequestOutcome},
};

pin_project! {
    /// The response future of [`AccessLog`](super::AccessLog).
    ///
    /// If this future is dropped before it is ready, the record has the outcome `dropped`.
    pub struct ResponseFuture<F> {
        // The inner future is dropped first: its drop can still write to the record.
        #[pin]
        response: F,
        guard: Option<Guard>,
    }
}

impl<F> ResponseFuture<F> {
    pub(super) fn new(response: F, guard: Option<Guard>) -> Self {
        Self { response, guard }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<AccessLogBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        this.guard.iter_mut().for_each(Guard::enter);
        let polled = this.response.poll(cx);
        this.guard.iter_mut().for_each(Guard::leave);
        if polled.is_pending() {
            this.guard.iter_mut().for_each(|guard| guard.poll_start(cx));
        }
        let result = ready!(polled);
        let guard = this.guard.take();
        Poll::Ready(match result {
            Ok(mut response) => {
                let guard = guard.and_then(|guard| guard.respond(&mut response));
                Ok(response.map(|body| AccessLogBody::new(body, guard)))
            }
            Err(error) => {
                guard
                    .into_iter()
                    .for_each(|guard| guard.finish(RequestOutcome::Failed));
                Err(error)
            }
        })
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseFuture")
    }
}
