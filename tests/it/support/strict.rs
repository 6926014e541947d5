//! Services that hold a layer to Tower's contract.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::Service;

/// A service that panics if it is called without having been polled ready.
///
/// A clone is never ready, as Tower allows: readiness belongs to the value that was polled.
#[derive(Debug)]
pub(crate) struct Strict {
    ready: bool,
    polls_before_ready: usize,
    polls_before_response: usize,
    calls: Arc<AtomicUsize>,
}

impl Strict {
    /// Creates a service that is pending this often before it is ready, and before it answers.
    pub(crate) fn new(polls_before_ready: usize, polls_before_response: usize) -> Self {
        Self {
            ready: false,
            polls_before_ready,
            polls_before_response,
            calls: Arc::default(),
        }
    }

    /// Returns a counter of the calls to this service and its clones.
    pub(crate) fn calls(&self) -> Arc<AtomicUsize> {
        self.calls.clone()
    }
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self {
            ready: false,
            calls: self.calls.clone(),
            ..*self
        }
    }
}

impl<B> Service<Request<B>> for Strict {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = AfterPolls;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.polls_before_ready > 0 {
            self.polls_before_ready -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> AfterPolls {
        assert!(self.ready, "called without having been polled ready");
        self.ready = false;
        self.calls.fetch_add(1, Ordering::SeqCst);
        AfterPolls(self.polls_before_response)
    }
}

/// Answers `200` with a short body after a number of polls.
#[derive(Debug)]
pub(crate) struct AfterPolls(usize);

impl Future for AfterPolls {
    type Output = Result<Response<Full<Bytes>>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.0 > 0 {
            self.0 -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(Response::new(Full::from("answer"))))
    }
}

/// A service that never gets ready: it fails.
#[derive(Clone, Debug)]
pub(crate) struct NeverReady;

/// The failure of [`NeverReady`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the inner service is gone")]
pub(crate) struct Gone;

impl<B> Service<Request<B>> for NeverReady {
    type Response = Response<Full<Bytes>>;
    type Error = Gone;
    type Future = std::future::Ready<Result<Self::Response, Gone>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        Poll::Ready(Err(Gone))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        panic!("called after poll_ready returned an error")
    }
}

/// Polls a future this often and drops it; returns its output if it came before that.
pub(crate) fn poll_times<F: Future>(future: F, times: usize) -> Option<F::Output> {
    let mut future = Box::pin(future);
    let mut cx = Context::from_waker(std::task::Waker::noop());
    for _ in 0..times {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return Some(output);
        }
    }
    None
}

/// A future that is pending once before another is polled.
#[derive(Debug)]
pub(crate) struct YieldOnce(bool);

impl YieldOnce {
    pub(crate) fn new() -> Self {
        Self(false)
    }
}

impl Future for YieldOnce {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.0 {
            return Poll::Ready(());
        }
        self.0 = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
