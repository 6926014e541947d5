//! The body of a response: the handler's, the handler's on its way into the store, or the store's.

use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    mem, panic,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker, ready},
    thread,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::{collapse::PumpOffer, config::Config, fill::Fill, reason::Reason};
use crate::body::ResponseBody;

/// The maximum number of frames that are read before the head of the response is sent.
const FRAMES_AHEAD_MAX: usize = 64;

pin_project! {
    /// The body of a response that passed the cache.
    ///
    /// A body from the handler streams through frame by frame, trailers included. If it is stored, a
    /// copy is taken as it passes. While other requests wait for the stored response, the body is read
    /// at the handler's pace, up to the size that the cache stores, however slowly its client reads.
    /// The default is an empty body.
    pub struct CacheBody<B>
    where
        B: Body,
    {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B>
    where
        B: Body,
    {
        Passing { #[pin] body: ResponseBody<B> },
        Filling { filling: Filling<B> },
        Stored { bytes: Option<Bytes> },
        // A body that was read to its end before its head was sent.
        Read { frames: VecDeque<Frame<Bytes>> },
    }
}

/// The client's side of a body that is being stored. Dropped before its end, the body may be
/// [finished](finish) in the background.
struct Filling<B: Body> {
    tee: Arc<Tee<B>>,
    /// Set where the body is known to be `Send`.
    finish: fn(Pin<Box<Tapped<B>>>),
}

/// A body that is read by its client, or by a [pump](pump) on behalf of requests that wait for it.
///
/// The lock is never held while the body is polled or a task is woken: either may use the cache.
struct Tee<B: Body> {
    state: Mutex<TeeState<B>>,
}

struct TeeState<B: Body> {
    /// Frames that the client has not taken yet.
    frames: VecDeque<Result<Frame<Bytes>, B::Error>>,
    source: Source<B>,
    /// The client's task, while it waits for the body or for the pump.
    client: Option<Waker>,
    /// Starts the pump once the client's poll of the body is over.
    start: Option<Box<dyn FnOnce() + Send>>,
    /// The length of the whole body, and how much of it the client has taken.
    size: SizeHint,
    taken_bytes: u64,
    client_is_gone: bool,
}

/// The owner of the rest of a body.
enum Source<B: Body> {
    /// The client reads it.
    Client(Pin<Box<Tapped<B>>>),
    /// The client polls it at this moment.
    Polled,
    /// The pump reads it.
    Pumped,
    /// It has panicked while the pump read it.
    Panicked,
    Ended,
}

pin_project! {
    /// A body, and the copy of it that is stored.
    struct Tapped<B> {
        #[pin]
        body: ResponseBody<B>,
        fill: Option<Fill>,
    }
}

impl<B: Body> CacheBody<B> {
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

    /// Returns whether it is still being stored.
    pub(super) fn is_filling(&self) -> bool {
        match &self.kind {
            Kind::Filling { filling } => filling.tee.lock().is_filling(),
            Kind::Passing { .. } | Kind::Stored { .. } | Kind::Read { .. } => false,
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
    /// Stores the rest of a body as it passes.
    pub(super) fn filled(self, fill: Fill, cx: &mut Context<'_>) -> Self {
        match self.kind {
            Kind::Passing { body } => Self::tapping(body, fill, cx),
            Kind::Stored { bytes } => {
                Self::tapping(ResponseBody::full(bytes.unwrap_or_default()), fill, cx)
            }
            kind @ (Kind::Filling { .. } | Kind::Read { .. }) => Self { kind },
        }
    }

    /// Passes a body through and stores a copy.
    pub(super) fn filling(body: B, fill: Fill, cx: &mut Context<'_>) -> Self {
        Self::tapping(ResponseBody::inner(body), fill, cx)
    }

    /// Reads what is there already: most bodies are short and lie in memory, and are stored before
    /// their head is sent.
    fn tapping(body: ResponseBody<B>, fill: Fill, cx: &mut Context<'_>) -> Self {
        // A server need not poll a body that says that it is at its end.
        if body.is_end_stream() {
            fill.commit();
            let kind = Kind::Passing { body };
            return Self { kind };
        }
        let size = body.size_hint();
        let config = Arc::clone(&fill.config);
        let frames_max = match fill.is_short() {
            true => FRAMES_AHEAD_MAX,
            false => 0,
        };
        let fill = Some(fill);
        let mut tapped = Box::pin(Tapped { body, fill });
        let mut frames = VecDeque::new();
        let mut first = None;
        let source = loop {
            if tapped.fill.is_none() && tapped.body.is_end_stream() {
                break Source::Ended;
            }
            if tapped.fill.is_none() || frames.len() + usize::from(first.is_some()) >= frames_max {
                break Source::Client(tapped);
            }
            match tapped.as_mut().poll_frame(cx) {
                Poll::Pending => break Source::Client(tapped),
                Poll::Ready(None) => break Source::Ended,
                Poll::Ready(Some(frame)) if first.is_none() && frames.is_empty() => {
                    first = Some(frame);
                }
                Poll::Ready(Some(frame)) => {
                    frames.extend(first.take());
                    frames.push_back(frame);
                }
            }
        };
        if let (Source::Ended, Some(Ok(frame))) = (&source, &first)
            && let Some(bytes) = frame.data_ref()
        {
            return Self::stored(bytes.clone());
        }
        frames.extend(first);
        let state = TeeState {
            frames,
            source,
            client: None,
            start: None,
            size,
            taken_bytes: 0,
            client_is_gone: false,
        };
        Self::teed(state, &config)
    }

    fn teed(mut state: TeeState<B>, config: &Arc<Config>) -> Self {
        if let Source::Ended = &state.source
            && state.frames.iter().all(Result::is_ok)
        {
            let frames = state.frames.drain(..).filter_map(Result::ok).collect();
            let kind = Kind::Read { frames };
            return Self { kind };
        }
        let state = Mutex::new(state);
        let tee = Arc::new(Tee { state });
        tee.offer_pump(config);
        let filling = Filling { tee, finish };
        Self {
            kind: Kind::Filling { filling },
        }
    }
}

impl<B> Tee<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Send,
{
    /// Lets the first request that waits for the response start the pump.
    fn offer_pump(self: &Arc<Self>, config: &Arc<Config>) {
        let (tee, config) = (Arc::downgrade(self), Arc::clone(config));
        let start = Arc::new(move || match config.can_spawn() {
            true => {
                Self::start_pump(&tee, &config);
                true
            }
            false => false,
        });
        // The pump may start at once: the state must not be locked.
        let offer = self.lock().pump_offer();
        if let Some(offer) = offer {
            offer.offer(start);
        }
    }

    fn start_pump(tee: &Weak<Self>, config: &Arc<Config>) {
        let Some(own) = tee.upgrade() else {
            return;
        };
        let mut state = own.lock();
        match mem::replace(&mut state.source, Source::Pumped) {
            Source::Client(tapped) => {
                drop(state);
                let tapped = Some(tapped);
                let pumped = Pumped { tee: own, tapped };
                config.spawn(Box::pin(pump(pumped, Arc::clone(config))));
            }
            Source::Polled => {
                state.source = Source::Polled;
                let (tee, config) = (Weak::clone(tee), Arc::clone(config));
                state.start = Some(Box::new(move || Self::start_pump(&tee, &config)));
            }
            other @ (Source::Pumped | Source::Panicked | Source::Ended) => state.source = other,
        }
    }
}

/// A body that the pump reads. Dropped, it is its client's again.
struct Pumped<B: Body> {
    tee: Arc<Tee<B>>,
    tapped: Option<Pin<Box<Tapped<B>>>>,
}

impl<B: Body> Drop for Pumped<B> {
    fn drop(&mut self) {
        let rest = match self.tapped.take() {
            None => Source::Ended,
            // A body that has panicked is not polled any further: its client panics, too.
            Some(_) if thread::panicking() => Source::Panicked,
            Some(tapped) => Source::Client(tapped),
        };
        self.tee.give_back(rest);
    }
}

/// Reads a body at the handler's pace while it is being stored, and gives it back to its client once
/// it is not.
async fn pump<B>(mut pumped: Pumped<B>, config: Arc<Config>)
where
    B: Body<Data = Bytes>,
{
    // A body that hangs is its client's again.
    let mut deadline = config.sleep(config.wait_at_most);
    poll_fn(|cx| {
        let is_filling = |tapped: &&mut Pin<Box<Tapped<B>>>| tapped.fill.is_some();
        while let Some(body) = pumped.tapped.as_mut().filter(is_filling) {
            match body.as_mut().poll_frame(cx) {
                Poll::Ready(Some(frame)) => pumped.tee.push(frame),
                Poll::Ready(None) => pumped.tapped = None,
                Poll::Pending => {
                    return match &mut deadline {
                        Some(deadline) => deadline.as_mut().poll(cx),
                        None => Poll::Pending,
                    };
                }
            }
        }
        Poll::Ready(())
    })
    .await;
}

impl<B: Body> Tee<B> {
    fn push(&self, frame: Result<Frame<Bytes>, B::Error>) {
        let mut state = self.lock();
        if !state.client_is_gone {
            state.frames.push_back(frame);
        }
        let client = state.client.take();
        drop(state);
        if let Some(client) = client {
            client.wake();
        }
    }

    /// Gives the rest of a body back to its client.
    fn give_back(&self, rest: Source<B>) {
        let mut state = self.lock();
        if !state.client_is_gone {
            state.source = rest;
        }
        let client = state.client.take();
        drop(state);
        if let Some(client) = client {
            client.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, TeeState<B>> {
        // No user code runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Body<Data = Bytes>> Tee<B> {
    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut state = self.lock();
        if let Some(frame) = state.frames.pop_front() {
            state.count(&frame);
            return Poll::Ready(Some(frame));
        }
        match mem::replace(&mut state.source, Source::Polled) {
            Source::Client(tapped) => {
                drop(state);
                self.poll_source(tapped, cx)
            }
            Source::Pumped => {
                state.source = Source::Pumped;
                state.wait(cx);
                Poll::Pending
            }
            Source::Panicked => {
                drop(state);
                panic::resume_unwind(Box::new("the body of the handler's response has panicked"))
            }
            Source::Polled | Source::Ended => {
                state.source = Source::Ended;
                Poll::Ready(None)
            }
        }
    }

    fn poll_source(
        &self,
        mut tapped: Pin<Box<Tapped<B>>>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = tapped.as_mut().poll_frame(cx);
        let mut state = self.lock();
        state.source = Source::Client(tapped);
        match &frame {
            Poll::Ready(Some(frame)) => state.count(frame),
            Poll::Ready(None) => {}
            // The pump may take the body, and what wakes it, from here.
            Poll::Pending => state.wait(cx),
        }
        let start = state.start.take();
        drop(state);
        if let Some(start) = start {
            start();
        }
        frame
    }
}

impl<B: Body> TeeState<B> {
    fn pump_offer(&self) -> Option<PumpOffer> {
        let Source::Client(tapped) = &self.source else {
            return None;
        };
        let lead = tapped.fill.as_ref()?.lead.as_ref()?;
        Some(lead.pump_offer())
    }

    /// Returns whether a copy is still taken.
    fn is_filling(&self) -> bool {
        match &self.source {
            Source::Client(tapped) => tapped.fill.is_some(),
            Source::Polled | Source::Pumped => true,
            Source::Panicked | Source::Ended => false,
        }
    }

    fn wait(&mut self, cx: &Context<'_>) {
        match &mut self.client {
            Some(client) => client.clone_from(cx.waker()),
            None => self.client = Some(cx.waker().clone()),
        }
    }

    fn count(&mut self, frame: &Result<Frame<Bytes>, B::Error>) {
        let data = frame.as_ref().ok().and_then(Frame::data_ref);
        self.taken_bytes += data.map_or(0, |data| data.len() as u64);
    }

    fn size_hint(&self) -> SizeHint {
        match self.size.exact() {
            Some(bytes) => SizeHint::with_exact(bytes.saturating_sub(self.taken_bytes)),
            None => SizeHint::default(),
        }
    }
}

impl<B: Body<Data = Bytes>> TeeState<B> {
    fn is_end_stream(&self) -> bool {
        self.frames.is_empty()
            && match &self.source {
                Source::Client(tapped) => tapped.body.is_end_stream(),
                Source::Polled | Source::Pumped | Source::Panicked => false,
                Source::Ended => true,
            }
    }
}

impl<B: Body<Data = Bytes>> Body for CacheBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            KindProj::Passing { body } => body.poll_frame(cx),
            KindProj::Filling { filling } => filling.tee.poll_frame(cx),
            KindProj::Stored { bytes } => {
                Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))))
            }
            KindProj::Read { frames } => Poll::Ready(frames.pop_front().map(Ok)),
        }
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Passing { body } => body.is_end_stream(),
            Kind::Filling { filling } => filling.tee.lock().is_end_stream(),
            Kind::Stored { bytes } => bytes.is_none(),
            Kind::Read { frames } => frames.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Passing { body } => body.size_hint(),
            Kind::Filling { filling } => filling.tee.lock().size_hint(),
            Kind::Stored { bytes } => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Kind::Read { frames } => SizeHint::with_exact(data_bytes(frames)),
        }
    }
}

fn data_bytes(frames: &VecDeque<Frame<Bytes>>) -> u64 {
    let data = frames.iter().filter_map(Frame::data_ref);
    data.map(|data| data.len() as u64).sum()
}

impl<B: Body> fmt::Debug for CacheBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.kind {
            Kind::Passing { .. } => "CacheBody(passing)",
            Kind::Filling { .. } => "CacheBody(filling)",
            Kind::Stored { .. } | Kind::Read { .. } => "CacheBody(stored)",
        })
    }
}

impl<B> Tapped<B> {
    /// Takes the fill, if all that was announced has come.
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
/// It is committed with the last frame where the body says that it is the last. Otherwise something
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
        // An error, trailers, and too large a body end the storing, not the stream.
        Some(Err(_)) => going_on.abandon(Reason::Incomplete),
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

impl<B: Body> Drop for Filling<B> {
    fn drop(&mut self) {
        let mut state = self.tee.lock();
        state.client_is_gone = true;
        state.frames.clear();
        let source = mem::replace(&mut state.source, Source::Ended);
        drop(state);
        let Source::Client(mut tapped) = source else {
            return;
        };
        match tapped.as_mut().take_complete() {
            Some(complete) => complete.commit(),
            None if tapped.fill.is_some() => (self.finish)(tapped),
            None => {}
        }
    }
}

/// Reads a body to its end after its client has gone away, if little is left of it or others wait for
/// it.
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
                    // No client waits for what else may come.
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
