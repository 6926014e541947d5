//! A response body that is copied to the store while it is sent.

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
    /// A response body that is copied to the store while it is sent.
    pub(super) struct Tapped<B> {
        #[pin]
        pub(super) body: ResponseBody<B>,
        pub(super) fill: Option<ResponseFill>,
        // Present from the time that other requests can stream it until its end.
        pub(super) feed: Option<Feed>,
    }
}

impl<B> Tapped<B> {
    /// Takes the fill, if the expected length has arrived.
    pub(super) fn take_complete(self: Pin<&mut Self>) -> Option<ResponseFill> {
        self.project().fill.take_if(|fill| fill.is_complete())
    }

    pub(super) fn has_readers(&self) -> bool {
        self.feed.as_ref().is_some_and(Feed::has_readers)
    }

    /// Returns `true` if another request waits for the response or streams it.
    pub(super) fn has_waiters(&self) -> bool {
        self.is_wanted() || self.has_readers()
    }

    /// Returns `true` if another request waits for the response to be stored.
    pub(super) fn is_wanted(&self) -> bool {
        self.fill.as_ref().is_some_and(ResponseFill::has_waiters)
    }

    /// Returns `true` if the body is being stored or streamed.
    pub(super) fn is_awaited(&self) -> bool {
        self.fill.is_some() || self.has_readers()
    }

    /// Allows the waiters to stream the response.
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

/// Sends a frame to the requests that stream the response. The fill has already taken it.
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

/// Adds a frame to a fill, and ends the fill after the last one.
///
/// The fill is committed with the last frame if the body reports its end. Otherwise something may
/// follow even after the expected length, such as trailers. A server that has sent the expected
/// length need not poll again, and drops the body.
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
        // An error, trailers, and an oversized body end the fill, not the stream.
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
