//! A body, and the copy of it that is stored.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use pin_project_lite::pin_project;

use super::{feed::Feed, writer::ResponseFill};
use crate::{cache::lookup::reason::CacheReason, core::http::body::ResponseBody};

pin_project! {
    /// A body, and the copy of it that is stored.
    pub(super) struct Tapped<B> {
        #[pin]
        pub(super) body: ResponseBody<B>,
        pub(super) fill: Option<ResponseFill>,
        // Present once other requests may stream it, until the body has ended.
        pub(super) feed: Option<Feed>,
    }
}

impl<B> Tapped<B> {
    /// Takes the fill, if all that was announced has come.
    pub(super) fn take_complete(self: Pin<&mut Self>) -> Option<ResponseFill> {
        self.project().fill.take_if(|fill| fill.is_complete())
    }

    pub(super) fn has_readers(&self) -> bool {
        self.feed.as_ref().is_some_and(Feed::has_readers)
    }

    /// Returns whether another request waits for the response, or streams it.
    pub(super) fn has_waiters(&self) -> bool {
        self.is_wanted() || self.has_readers()
    }

    /// Returns whether another request waits for the response to be stored.
    pub(super) fn is_wanted(&self) -> bool {
        self.fill.as_ref().is_some_and(ResponseFill::has_waiters)
    }

    /// Returns whether the body is stored or streamed.
    pub(super) fn is_awaited(&self) -> bool {
        self.fill.is_some() || self.has_readers()
    }

    /// Lets the requests that wait for the response stream it.
    pub(super) fn publish(self: Pin<&mut Self>) {
        let this = self.project();
        let relay = this.fill.as_mut().and_then(ResponseFill::stream);
        *this.feed = relay.map(|relay| Feed::new(&relay));
    }
}

impl<B: Body<Data = Bytes>> Tapped<B> {
    pub(super) fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        take_in(this.fill, frame.as_ref(), || this.body.is_end_stream());
        if let Some(feed) = this.feed {
            pass_to(feed, frame.as_ref(), || this.body.is_end_stream());
        }
        Poll::Ready(frame)
    }
}

/// Passes a frame to the requests that stream the response. The fill has taken it in.
fn pass_to<E>(feed: &Feed, frame: Option<&Result<Frame<Bytes>, E>>, at_end: impl FnOnce() -> bool) {
    match frame {
        None => feed.end(),
        Some(Err(_)) => feed.interrupt(),
        Some(Ok(frame)) => {
            feed.push(frame);
            if at_end() {
                feed.end();
            }
        }
    }
}

/// Takes a frame into a fill, which is gone with the last one.
///
/// It is committed with the last frame where the body says that it is the last. Otherwise something
/// may follow, such as trailers, also after all that was announced; a server that has sent that much
/// need not poll any further, and drops the body.
fn take_in<E>(
    fill: &mut Option<ResponseFill>,
    frame: Option<&Result<Frame<Bytes>, E>>,
    at_end: impl FnOnce() -> bool,
) {
    let Some(mut going_on) = fill.take() else {
        return;
    };
    match frame {
        None => going_on.commit(),
        // An error, trailers, and too large a body end the storing, not the stream.
        Some(Err(_)) => going_on.abandon(CacheReason::Incomplete),
        Some(Ok(frame)) => {
            let kept = match frame.data_ref() {
                Some(data) => going_on.push(data),
                None => Err(CacheReason::Trailers),
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
