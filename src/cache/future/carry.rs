//! A future paired with a value that is passed to the next step when the future completes.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;

pin_project! {
    /// A future paired with a value that is passed to the next step when the future completes.
    ///
    /// Panics if polled after completion, as [`std::future::Ready`] does.
    pub(super) struct Carry<F, T> {
        #[pin]
        future: F,
        carried: Option<T>,
    }
}

impl<F, T> Carry<F, T> {
    #[inline(always)]
    pub(super) fn new(future: F, carried: T) -> Self {
        Self {
            future,
            carried: Some(carried),
        }
    }
}

impl<F: Future, T> Carry<F, T> {
    /// Polls the future. Once it is ready, calls `then` with its output and the value.
    #[inline(always)]
    pub(super) fn poll_then<R>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        then: impl FnOnce(F::Output, T, &mut Context<'_>) -> R,
    ) -> Poll<R> {
        let this = self.project();
        let output = ready!(this.future.poll(cx));
        let carried = this.carried.take();
        let carried = carried.expect("a future is not polled after it ended");
        Poll::Ready(then(output, carried, cx))
    }
}
