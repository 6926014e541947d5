//! Waiting for a service to be ready before it is called again.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::Request;
use tower::Service;

/// Waits until a service is ready for a request. Returns both.
pub(super) struct Readying<S, ReqBody> {
    call: Option<(Box<S>, Request<ReqBody>)>,
}

impl<S, ReqBody> Readying<S, ReqBody> {
    pub(super) fn new(service: Box<S>, request: Request<ReqBody>) -> Self {
        Self {
            call: Some((service, request)),
        }
    }
}

// Neither the service nor the request is pinned.
impl<S, ReqBody> Unpin for Readying<S, ReqBody> {}

impl<S: Service<Request<ReqBody>>, ReqBody> Future for Readying<S, ReqBody> {
    type Output = Result<(Box<S>, Request<ReqBody>), S::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let call = self.call.take();
        let (mut service, request) = call.expect("a future is not polled after it ended");
        match service.poll_ready(cx) {
            Poll::Ready(ready) => Poll::Ready(ready.map(|()| (service, request))),
            Poll::Pending => {
                self.call = Some((service, request));
                Poll::Pending
            }
        }
    }
}
