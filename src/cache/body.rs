//! The body of an answer: the handler's, the handler's on its way into the store, or the store's.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::{fill::Fill, reason::Reason};
use crate::body::ResponseBody;

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
        Passing { #[pin] body: ResponseBody<B> },
        Filling { filling: Filling<B> },
        Stored { bytes: Option<Bytes> },
    }
}

/// A body that is being stored while it passes. Dropped before its end, it may be
/// [finished](finish) beside the requests.
struct Filling<B> {
    tapped: Option<Pin<Box<Tapped<B>>>>,
    /// How that is done, by whoever knew that the body can be sent to another thread.
    finish: fn(Pin<Box<Tapped<B>>>),
}

pin_project! {
    /// A body, and what is stored of it.
    struct Tapped<B> {
        #[pin]
        body: ResponseBody<B>,
        fill: Option<Fill>,
    }
}

impl<B> CacheBody<B> {
    pub(super) fn inner(body: B) -> Self {
        Self {
            kind: Kind::Passing {
                body: ResponseBody::inner(body),
            },
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

impl<B: Body<Data = Bytes> + Send + 'static> CacheBody<B> {
    /// Stores what passes from now on.
    pub(super) fn filled(self, fill: Fill) -> Self {
        match self.kind {
            Kind::Passing { body } => Self::tapping(body, fill),
            Kind::Stored { bytes } => {
                Self::tapping(ResponseBody::full(bytes.unwrap_or_default()), fill)
            }
            kind @ Kind::Filling { .. } => Self { kind },
        }
    }

    /// Passes a body through and stores what passes.
    pub(super) fn filling(body: B, fill: Fill) -> Self {
        Self::tapping(ResponseBody::inner(body), fill)
    }

    fn tapping(body: ResponseBody<B>, fill: Fill) -> Self {
        // A server need not poll a body that says that it is at its end.
        if body.is_end_stream() {
            fill.commit();
            let kind = Kind::Passing { body };
            return Self { kind };
        }
        let fill = Some(fill);
        let filling = Filling {
            tapped: Some(Box::pin(Tapped { body, fill })),
            finish,
        };
        Self {
            kind: Kind::Filling { filling },
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
            KindProj::Passing { body } => body.poll_frame(cx),
            KindProj::Filling { filling } => match &mut filling.tapped {
                Some(tapped) => tapped.as_mut().poll_frame(cx),
                None => Poll::Ready(None),
            },
            KindProj::Stored { bytes } => {
                Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Passing { body } => body.is_end_stream(),
            Kind::Filling { filling } => match &filling.tapped {
                Some(tapped) => tapped.body.is_end_stream(),
                None => true,
            },
            Kind::Stored { bytes } => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Passing { body } => body.size_hint(),
            Kind::Filling { filling } => match &filling.tapped {
                Some(tapped) => tapped.body.size_hint(),
                None => SizeHint::with_exact(0),
            },
            Kind::Stored { bytes } => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
        }
    }
}

impl<B> Tapped<B> {
    /// Takes what is stored out, if all that was announced has come.
    fn take_complete(self: Pin<&mut Self>) -> Option<Fill> {
        self.project().fill.take_if(|fill| fill.is_complete())
    }
}

impl<B: Body<Data = Bytes>> Tapped<B> {
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        take_in(this.fill, frame.as_ref(), || this.body.is_end_stream());
        Poll::Ready(frame)
    }
}

/// Takes a frame into a fill, which is gone with the last one.
///
/// It is committed with the last frame where the body says that it is that one. Otherwise something
/// may follow, such as trailers, also after all that was announced; a server that has sent that much
/// need not poll any further, and drops the body.
fn take_in<E>(
    fill: &mut Option<Fill>,
    frame: Option<&Result<Frame<Bytes>, E>>,
    at_end: impl FnOnce() -> bool,
) {
    let Some(mut going_on) = fill.take() else {
        return;
    };
    match frame {
        None => going_on.commit(),
        // An error, trailers, and what is too large end the storing, not the stream.
        Some(Err(_)) => {}
        Some(Ok(frame)) => {
            let kept = match frame.data_ref() {
                Some(data) => going_on.push(data),
                None => Err(Reason::Trailers),
            };
            match kept {
                Err(reason) => going_on.abandon(reason),
                Ok(()) if at_end() => going_on.commit(),
                Ok(()) => {
                    going_on.wait_for_more();
                    *fill = Some(going_on);
                }
            }
        }
    }
}

impl<B> Drop for Filling<B> {
    fn drop(&mut self) {
        let Some(mut tapped) = self.tapped.take() else {
            return;
        };
        match tapped.as_mut().take_complete() {
            Some(complete) => complete.commit(),
            None if tapped.fill.is_some() => (self.finish)(tapped),
            None => {}
        }
    }
}

impl<B> fmt::Debug for Filling<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Filling")
    }
}

/// Reads a body to its end although its client has gone away, if that is soon and others are of use
/// of it.
fn finish<B: Body<Data = Bytes> + Send + 'static>(mut tapped: Pin<Box<Tapped<B>>>) {
    let Some(finishing) = tapped.fill.as_ref().and_then(Fill::begin_to_finish) else {
        return;
    };
    let config = Arc::clone(finishing.config());
    config.spawn(Box::pin(async move {
        let mut deadline = finishing.deadline();
        poll_fn(|cx| {
            while tapped.fill.is_some() {
                if let Some(deadline) = &mut deadline
                    && deadline.as_mut().poll(cx).is_ready()
                {
                    return Poll::Ready(());
                }
                match tapped.as_mut().poll_frame(cx) {
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
                    // Nobody is there who would wait for what else may come.
                    Poll::Pending => match tapped.as_mut().take_complete() {
                        Some(complete) => complete.commit(),
                        None => return Poll::Pending,
                    },
                }
            }
            Poll::Ready(())
        })
        .await;
    }));
}
