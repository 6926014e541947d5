//! The response body of the cache: the handler's, with or without a fill, or a stored one.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::{
    pump::finish,
    relay::RelayReader,
    tapped::Tapped,
    tee::{Filling, Source, Tee, TeeState},
    writer::ResponseFill,
};
use crate::{
    cache::{config::Config, flight::single_flight::Wait},
    core::{error::BoxError, http::body::ResponseBody},
};

/// The maximum number of frames that are read before the head of the response is sent.
const FRAMES_AHEAD_MAX: usize = 64;

pin_project! {
    /// The response body of the cache middleware.
    ///
    /// A body from the handler streams frame by frame, trailers included, and is copied into the
    /// store if it is storable. Requests that wait for the response stream the same bytes. While
    /// there are such requests, the body is read at the handler's pace, independently of its own
    /// client, up to the maximum size of a stored body. The `Default` value is an empty body.
    ///
    /// Errors of the handler's body are returned unchanged. A body that streams the response of
    /// another request ends with [`InterruptedError`](crate::cache::body::InterruptedError) if that
    /// response does not complete.
    pub struct CacheBody<B>
    where
        B: Body,
    {
        #[pin]
        kind: CacheBodyKind<B>,
    }
}

pin_project! {
    #[project = CacheBodyKindProj]
    enum CacheBodyKind<B>
    where
        B: Body,
    {
        Passing { #[pin] body: ResponseBody<B> },
        Filling { filling: Filling<B> },
        Stored { bytes: Option<Bytes> },
        // The body of another request's response that is being stored.
        Streamed { streamed: Box<Streamed> },
        // A body that was read to its end before its head was sent.
        Read { frames: VecDeque<Frame<Bytes>> },
    }
}

/// A stream of a response that another request is filling.
struct Streamed {
    reader: RelayReader,
    /// Counts this request as a waiter of the flight, so that the body is read for it.
    _wait: Wait,
}

impl<B: Body> CacheBody<B> {
    pub(crate) fn inner(body: B) -> Self {
        Self {
            kind: CacheBodyKind::Passing {
                body: ResponseBody::new(body),
            },
        }
    }

    pub(crate) fn stored(bytes: Bytes) -> Self {
        Self {
            kind: CacheBodyKind::Stored {
                bytes: (!bytes.is_empty()).then_some(bytes),
            },
        }
    }

    /// Streams a response that another request is filling.
    pub(crate) fn streamed(reader: RelayReader, wait: Wait) -> Self {
        let streamed = Streamed {
            reader,
            _wait: wait,
        };
        Self {
            kind: CacheBodyKind::Streamed {
                streamed: Box::new(streamed),
            },
        }
    }

    /// Returns `true` if the body is still being stored.
    pub(crate) fn is_filling(&self) -> bool {
        match &self.kind {
            CacheBodyKind::Filling { filling } => filling.tee.lock().is_filling(),
            CacheBodyKind::Passing { .. }
            | CacheBodyKind::Stored { .. }
            | CacheBodyKind::Streamed { .. }
            | CacheBodyKind::Read { .. } => false,
        }
    }
}

impl<B: Body> Default for CacheBody<B> {
    fn default() -> Self {
        Self::stored(Bytes::new())
    }
}

impl<B> CacheBody<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Send,
{
    /// Stores the rest of a body while it streams.
    pub(crate) fn filled(self, fill: ResponseFill, cx: &mut Context<'_>) -> Self {
        match self.kind {
            CacheBodyKind::Passing { body } => Self::tapping(body, fill, cx),
            CacheBodyKind::Stored { bytes } => {
                Self::tapping(ResponseBody::full(bytes.unwrap_or_default()), fill, cx)
            }
            kind @ (CacheBodyKind::Filling { .. }
            | CacheBodyKind::Streamed { .. }
            | CacheBodyKind::Read { .. }) => Self { kind },
        }
    }

    /// Streams a body and stores a copy.
    pub(crate) fn filling(body: B, fill: ResponseFill, cx: &mut Context<'_>) -> Self {
        Self::tapping(ResponseBody::new(body), fill, cx)
    }

    /// Reads the frames that are ready. Most bodies are short and in memory, and are stored before
    /// their head is sent.
    fn tapping(body: ResponseBody<B>, fill: ResponseFill, cx: &mut Context<'_>) -> Self {
        // A server need not poll a body that is at its end.
        if body.is_end_stream() {
            fill.commit();
            let kind = CacheBodyKind::Passing { body };
            return Self { kind };
        }
        let size = body.size_hint();
        let config = Arc::clone(&fill.config);
        let max_frames = match fill.is_short() {
            true => FRAMES_AHEAD_MAX,
            false => 0,
        };
        let fill = Some(fill);
        let tapped = Box::pin(Tapped {
            body,
            fill,
            feed: None,
        });
        let ahead = ReadAhead::read(tapped, max_frames, cx);
        match ahead.single_frame() {
            Some(bytes) => Self::stored(bytes.clone()),
            None => Self::teed(ahead.into_state(size), &config),
        }
    }

    fn teed(mut state: TeeState<B>, config: &Arc<Config>) -> Self {
        if let Source::Ended = &state.source
            && state.frames.iter().all(Result::is_ok)
        {
            let frames = state.frames.drain(..).filter_map(Result::ok).collect();
            let kind = CacheBodyKind::Read { frames };
            return Self { kind };
        }
        let state = Mutex::new(state);
        let tee = Arc::new(Tee { state });
        tee.offer_pump(config);
        let filling = Filling { tee, finish };
        Self {
            kind: CacheBodyKind::Filling { filling },
        }
    }
}

impl<B> Body for CacheBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project().kind.project() {
            CacheBodyKindProj::Passing { body } => body.poll_frame(cx).map_err(Into::into),
            CacheBodyKindProj::Filling { filling } => {
                filling.tee.poll_frame(cx).map_err(Into::into)
            }
            CacheBodyKindProj::Streamed { streamed } => {
                streamed.reader.poll_frame(cx).map_err(Into::into)
            }
            CacheBodyKindProj::Stored { bytes } => {
                Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))))
            }
            CacheBodyKindProj::Read { frames } => Poll::Ready(frames.pop_front().map(Ok)),
        }
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        match &self.kind {
            CacheBodyKind::Passing { body } => body.is_end_stream(),
            CacheBodyKind::Filling { filling } => filling.tee.lock().is_end_stream(),
            CacheBodyKind::Stored { bytes } => bytes.is_none(),
            CacheBodyKind::Streamed { streamed } => streamed.reader.is_end_stream(),
            CacheBodyKind::Read { frames } => frames.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            CacheBodyKind::Passing { body } => body.size_hint(),
            CacheBodyKind::Filling { filling } => filling.tee.lock().size_hint(),
            CacheBodyKind::Stored { bytes } => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            CacheBodyKind::Streamed { streamed } => streamed.reader.size_hint(),
            CacheBodyKind::Read { frames } => SizeHint::with_exact(data_bytes(frames)),
        }
    }
}

/// The frames of a body that are read before its head is sent, and the rest of the body.
struct ReadAhead<B: Body> {
    /// A body of one frame, the common case, needs no queue.
    first: Option<Result<Frame<Bytes>, B::Error>>,
    more: VecDeque<Result<Frame<Bytes>, B::Error>>,
    source: Source<B>,
}

impl<B: Body<Data = Bytes>> ReadAhead<B> {
    #[inline(always)]
    fn read(mut tapped: Pin<Box<Tapped<B>>>, max_frames: usize, cx: &mut Context<'_>) -> Self {
        let (mut first, mut more) = (None, VecDeque::new());
        let source = loop {
            if tapped.fill.is_none() && tapped.body.is_end_stream() {
                break Source::Ended;
            }
            if tapped.fill.is_none() || more.len() + usize::from(first.is_some()) >= max_frames {
                break Source::Client(tapped);
            }
            match tapped.as_mut().poll_frame(cx) {
                Poll::Pending => break Source::Client(tapped),
                Poll::Ready(None) => break Source::Ended,
                Poll::Ready(Some(frame)) if first.is_none() && more.is_empty() => {
                    first = Some(frame);
                }
                Poll::Ready(Some(frame)) => {
                    more.extend(first.take());
                    more.push_back(frame);
                }
            }
        };
        Self {
            first,
            more,
            source,
        }
    }

    /// Returns the data of a body that has ended after one frame.
    fn single_frame(&self) -> Option<&Bytes> {
        match (&self.source, &self.first) {
            (Source::Ended, Some(Ok(frame))) => frame.data_ref(),
            (Source::Ended, Some(Err(_)) | None) => None,
            (Source::Client(_) | Source::Polled | Source::Pumped | Source::Panicked, _) => None,
        }
    }

    fn into_state(self, size: SizeHint) -> TeeState<B> {
        let mut frames = self.more;
        frames.extend(self.first);
        TeeState::new(frames, self.source, size)
    }
}

fn data_bytes(frames: &VecDeque<Frame<Bytes>>) -> u64 {
    let data = frames.iter().filter_map(Frame::data_ref);
    data.map(|data| data.len() as u64).sum()
}

impl<B: Body> fmt::Debug for CacheBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.kind {
            CacheBodyKind::Passing { .. } => "CacheBody(passing)",
            CacheBodyKind::Filling { .. } => "CacheBody(filling)",
            CacheBodyKind::Streamed { .. } => "CacheBody(streamed)",
            CacheBodyKind::Stored { .. } | CacheBodyKind::Read { .. } => "CacheBody(stored)",
        })
    }
}
