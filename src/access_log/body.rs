//! The response's body, counted to its end.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::{guard::Guard, record::Outcome};

pin_project! {
    /// A response's body whose end completes the record of its request.
    ///
    /// Frames, trailers, size hints and errors pass through untouched.
    pub struct AccessLogBody<B> {
        // The inner body goes first: what its drop still writes stands in the record.
        #[pin]
        body: B,
        guard: Option<Guard>,
    }
}

impl<B> AccessLogBody<B> {
    pub(super) fn new(body: B, guard: Option<Guard>) -> Self {
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
        let mut this = self.project();
        this.guard.iter_mut().for_each(Guard::enter);
        let polled = this.body.as_mut().poll_frame(cx);
        this.guard.iter_mut().for_each(Guard::leave);
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
            Some(Err(_)) => Some(Outcome::BodyError),
            // Nothing comes after trailers.
            Some(Ok(_)) if trailers.is_some() => Some(Outcome::Completed),
            // A server that sees the end does not ask again.
            Some(Ok(_)) => this.body.is_end_stream().then_some(Outcome::Completed),
            None => Some(Outcome::Completed),
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
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> fmt::Debug for AccessLogBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessLogBody")
    }
}
