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
        pub(super) kind: BodyKind<B>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = KindProj]
    pub(super) enum BodyKind<B> {
        Inner { #[pin] body: B },
        // In a box, so that a response is no larger than the inner service's: each layer moves it.
        // Nothing where there are no bytes.
        Other { other: Option<Pin<Box<Other<B>>>> },
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = OtherProj]
    pub(super) enum Other<B> {
        Own { bytes: Option<Bytes> },
        Guarded { #[pin] body: B, guard: Option<Box<dyn BodyGuard>> },
    }
}

/// Something that is dropped once a body has ended.
pub(crate) trait BodyGuard: fmt::Debug + Send + Sync {}

impl<T: fmt::Debug + Send + Sync> BodyGuard for T {}

impl<B> ResponseBody<B> {
    /// Passes an inner body through.
    #[inline]
    pub fn new(body: B) -> Self {
        Self {
            kind: BodyKind::Inner { body },
        }
    }

    /// Answers with these bytes.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        if bytes.is_empty() {
            return Self::empty();
        }
        let bytes = Some(bytes);
        Self::other(Other::Own { bytes })
    }

    /// Answers with no bytes.
    pub fn empty() -> Self {
        Self {
            kind: BodyKind::Other { other: None },
        }
    }

    pub(super) fn other(other: Other<B>) -> Self {
        Self {
            kind: BodyKind::Other {
                other: Some(Box::pin(other)),
            },
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

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            KindProj::Inner { body } => body.poll_frame(cx),
            KindProj::Other { other } => match other {
                Some(other) => other.as_mut().poll_frame(cx),
                None => Poll::Ready(None),
            },
        }
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        match &self.kind {
            BodyKind::Inner { body } => body.is_end_stream(),
            BodyKind::Other { other } => other.as_ref().is_none_or(|other| other.is_end_stream()),
        }
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            BodyKind::Inner { body } => body.size_hint(),
            BodyKind::Other { other } => match other {
                Some(other) => other.size_hint(),
                None => SizeHint::with_exact(0),
            },
        }
    }
}

impl<B> Body for Other<B>
where
    B: Body<Data = Bytes>,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project() {
            OtherProj::Own { bytes } => {
                Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))))
            }
            OtherProj::Guarded { body, guard } => {
                let frame = ready!(body.poll_frame(cx));
                if !matches!(frame, Some(Ok(_))) {
                    *guard = None;
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own { bytes } => bytes.is_none(),
            Self::Guarded { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own { bytes } => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Guarded { body, .. } => body.size_hint(),
        }
    }
}
