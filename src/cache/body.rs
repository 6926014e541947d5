//! The body of an answer: the handler's, the handler's on its way into the store, or the store's.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::fill::Fill;

pin_project! {
    /// The body of an answer that passed the cache.
    ///
    /// What comes from the handler streams through, frame by frame, trailers included; if it is
    /// being stored, that happens beside it, and never holds it up.
    #[derive(Debug)]
    pub struct CacheBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = KindProj]
    enum Kind<B> {
        Inner { #[pin] body: B },
        Filling { #[pin] body: B, fill: Option<Box<Fill>> },
        Stored { bytes: Option<Bytes> },
    }
}

impl<B> CacheBody<B> {
    pub(super) fn inner(body: B) -> Self {
        Self {
            kind: Kind::Inner { body },
        }
    }

    pub(super) fn stored(bytes: Bytes) -> Self {
        Self {
            kind: Kind::Stored {
                bytes: (!bytes.is_empty()).then_some(bytes),
            },
        }
    }
}

impl<B: Body<Data = Bytes>> CacheBody<B> {
    /// Stores what passes from now on.
    pub(super) fn filled(self, fill: Fill) -> Self {
        match self.kind {
            Kind::Inner { body } => Self::filling(body, fill),
            kind @ (Kind::Filling { .. } | Kind::Stored { .. }) => Self { kind },
        }
    }

    /// Passes a body through and stores what passes.
    pub(super) fn filling(body: B, fill: Fill) -> Self {
        // A server need not poll a body that says that it is at its end.
        if body.is_end_stream() {
            fill.commit();
            return Self::inner(body);
        }
        Self {
            kind: Kind::Filling {
                body,
                fill: Some(Box::new(fill)),
            },
        }
    }
}

impl<B: Body<Data = Bytes>> Body for CacheBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            KindProj::Inner { body } => body.poll_frame(cx),
            KindProj::Filling { mut body, fill } => {
                let frame = ready!(body.as_mut().poll_frame(cx));
                if let Some(going_on) = fill.take() {
                    *fill = filled(going_on, frame.as_ref(), || body.is_end_stream());
                }
                Poll::Ready(frame)
            }
            KindProj::Stored { bytes } => {
                Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Inner { body } | Kind::Filling { body, .. } => body.is_end_stream(),
            Kind::Stored { bytes } => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Inner { body } | Kind::Filling { body, .. } => body.size_hint(),
            Kind::Stored { bytes } => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
        }
    }
}

/// Takes a frame into a fill. Returns the fill if it goes on.
///
/// It is committed with the last frame, and not after it: a server that has sent as much as it
/// announced polls no further.
fn filled<E>(
    mut fill: Box<Fill>,
    frame: Option<&Result<Frame<Bytes>, E>>,
    at_end: impl FnOnce() -> bool,
) -> Option<Box<Fill>> {
    let Some(frame) = frame else {
        fill.commit();
        return None;
    };
    // An error, trailers, and what is too large end the storing, not the stream.
    let Ok(frame) = frame else {
        return None;
    };
    let kept = frame.data_ref().is_some_and(|data| fill.push(data));
    if !kept {
        fill.abandon();
        return None;
    }
    if fill.is_complete() || at_end() {
        fill.commit();
        return None;
    }
    Some(fill)
}
