//! The one response body that the layers share: the inner service's, or a short one of our own.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

pin_project! {
    /// A response's body: the inner service's, passed through, or bytes that a layer answers with.
    ///
    /// Trailers, size hints and errors of the inner body pass through untouched.
    #[derive(Debug)]
    pub struct ResponseBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = KindProj]
    enum Kind<B> {
        Inner { #[pin] body: B },
        Own { bytes: Option<Bytes> },
        // In a box, so that the others are no larger.
        Guarded { guarded: Pin<Box<Guarded<B>>> },
    }
}

pin_project! {
    #[derive(Debug)]
    struct Guarded<B> {
        #[pin]
        body: B,
        guard: Option<Box<dyn Guard>>,
    }
}

/// Something that is dropped once a body has ended.
pub(crate) trait Guard: fmt::Debug + Send + Sync {}

impl<T: fmt::Debug + Send + Sync> Guard for T {}

impl<B> ResponseBody<B> {
    /// Passes an inner body through.
    pub fn inner(body: B) -> Self {
        Self {
            kind: Kind::Inner { body },
        }
    }

    /// Passes an inner body through, and drops the guard when that has ended, fails, or is dropped.
    pub(crate) fn guarded(body: B, guard: impl Guard + 'static) -> Self {
        let guard: Option<Box<dyn Guard>> = Some(Box::new(guard));
        Self {
            kind: Kind::Guarded {
                guarded: Box::pin(Guarded { body, guard }),
            },
        }
    }

    /// Answers with these bytes.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            kind: Kind::Own {
                bytes: (!bytes.is_empty()).then_some(bytes),
            },
        }
    }

    /// Answers with no bytes.
    pub fn empty() -> Self {
        Self {
            kind: Kind::Own { bytes: None },
        }
    }
}

impl<B> Default for ResponseBody<B> {
    fn default() -> Self {
        Self::empty()
    }
}

impl<B> Body for ResponseBody<B>
where
    B: Body<Data = Bytes>,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            KindProj::Inner { body } => Poll::Ready(ready!(body.poll_frame(cx))),
            KindProj::Guarded { guarded } => {
                let guarded = guarded.as_mut().project();
                let frame = ready!(guarded.body.poll_frame(cx));
                if !matches!(frame, Some(Ok(_))) {
                    *guarded.guard = None;
                }
                Poll::Ready(frame)
            }
            KindProj::Own { bytes } => {
                Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Inner { body } => body.is_end_stream(),
            Kind::Guarded { guarded } => guarded.body.is_end_stream(),
            Kind::Own { bytes } => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Inner { body } => body.size_hint(),
            Kind::Guarded { guarded } => guarded.body.size_hint(),
            Kind::Own { bytes } => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
        }
    }
}
