//! The response body, counted until its end.

pub use super::inside::{CountRequestBody, CountedBody};
use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::record::{guard::Guard, record::RequestOutcome};

pin_project! {
    /// A response body that completes the record of its request when the body ends.
    ///
    /// Frames, trailers, size hints and errors pass through unchanged. The default value is an
    /// empty body without a record.
    pub struct AccessLogBody<B> {
        // The inner body is dropped first: its drop may still write to the record.
        // `None` is an empty body, so that `Default` requires nothing of `B`.
        #[pin]
        body: Option<B>,
        guard: Option<Guard>,
    }
}

impl<B> AccessLogBody<B> {
    pub(super) fn new(body: B, guard: Option<Guard>) -> Self {
        let body = Some(body);
        Self { body, guard }
    }
}

impl<B> Default for AccessLogBody<B> {
    fn default() -> Self {
        let (body, guard) = (None, None);
        Self { body, guard }
    }
}

impl<B: Body> Body for AccessLogBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let Some(mut body) = this.body.as_pin_mut() else {
            return Poll::Ready(None);
        };
        this.guard.iter_mut().for_each(Guard::enter);
        let polled = body.as_mut().poll_frame(cx);
        this.guard.iter_mut().for_each(Guard::leave);
        // Also polled if the body is never pending.
        this.guard.iter_mut().for_each(|guard| guard.poll_start(cx));
        let frame = ready!(polled);
        if let Some(Ok(frame)) = &frame {
            let bytes = frame.data_ref().map_or(0, |data| data.remaining() as u64);
            this.guard.iter_mut().for_each(|guard| guard.count(bytes));
        }
        let trailers = match &frame {
            Some(Ok(frame)) => frame.trailers_ref(),
            Some(Err(_)) | None => None,
        };
        if let (Some(trailers), Some(guard)) = (trailers, this.guard.as_mut()) {
            guard.trailers(trailers);
        }
        let end = match &frame {
            Some(Err(_)) => Some(RequestOutcome::BodyError),
            // Trailers are the last frame.
            Some(Ok(_)) if trailers.is_some() => Some(RequestOutcome::Completed),
            // A server that learns the end from `is_end_stream` does not poll again.
            Some(Ok(_)) => body.is_end_stream().then_some(RequestOutcome::Completed),
            None => Some(RequestOutcome::Completed),
        };
        if let Some(outcome) = end {
            this.guard
                .take()
                .into_iter()
                .for_each(|guard| guard.finish(outcome));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(B::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let empty = || SizeHint::with_exact(0);
        self.body.as_ref().map_or_else(empty, B::size_hint)
    }
}

impl<B> fmt::Debug for AccessLogBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessLogBody")
    }
}
