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

use super::{
    relay::{Feed, RelayReader},
    writer::{Fill, Finishing},
};
use crate::{
    cache::{
        config::Config,
        lookup::{
            reason::Reason,
            single_flight::{PumpOffer, Wait},
        },
    },
    core::{error::BoxError, http::body::ResponseBody, runtime::Task},
};

/// The maximum number of frames that are read before the head of the response is sent.
const FRAMES_AHEAD_MAX: usize = 64;

pin_project! {
    /// The body of a response that passed the cache.
    ///
    /// A body from the handler streams through frame by frame, trailers included. If it is stored, a
    /// copy is taken as it passes. While other requests wait for it, the body is read at the handler's
    /// pace, up to the size that the cache stores, however slowly its client reads, and they stream the
    /// same bytes. The default is an empty body.
    ///
    /// Errors of the handler's body are passed on. A body that streams another request's response ends
    /// with [`InterruptedError`](crate::cache::InterruptedError) if that response does not arrive whole.
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
        // The body of another request's response, while that is being stored.
        Streamed { streamed: Box<Streamed> },
        // A body that was read to its end before its head was sent.
        Read { frames: VecDeque<Frame<Bytes>> },
    }
}

/// The client's side of a body that is being stored. Dropped before its end, the body may be
/// [finished](finish) in the background.
struct Filling<B: Body> {
    tee: Arc<Tee<B>>,
    /// Set where the body is known to be `Send`.
    finish: Finish<B>,
}

type Finish<B> = fn(Arc<Tee<B>>, Pin<Box<Tapped<B>>>);

/// A stream of a response that another request fills.
struct Streamed {
    reader: RelayReader,
    /// Counts this request among the waiters of the flight, for whom the body is read.
    _wait: Wait,
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
    /// The bytes of `frames`, and the pump's task, while it waits for the client to take some.
    queued_bytes: u64,
    pump: Option<Waker>,
    /// Whether a request came to wait for the body as the pump gave it back.
    is_wanted: bool,
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
        // Present once other requests may stream it, until the body has ended.
        feed: Option<Feed>,
    }
}

impl<B: Body> CacheBody<B> {
    pub(crate) fn inner(body: B) -> Self {
        Self {
            kind: Kind::Passing {
                body: ResponseBody::inner(body),
            },
        }
    }

    pub(crate) fn stored(bytes: Bytes) -> Self {
        Self {
            kind: Kind::Stored {
                bytes: (!bytes.is_empty()).then_some(bytes),
            },
        }
    }

    /// Streams the response that another request fills.
    pub(crate) fn streamed(reader: RelayReader, wait: Wait) -> Self {
        let streamed = Streamed {
            reader,
            _wait: wait,
        };
        Self {
            kind: Kind::Streamed {
                streamed: Box::new(streamed),
            },
        }
    }

    /// Returns whether it is still being stored.
    pub(crate) fn is_filling(&self) -> bool {
        match &self.kind {
            Kind::Filling { filling } => filling.tee.lock().is_filling(),
            Kind::Passing { .. }
            | Kind::Stored { .. }
            | Kind::Streamed { .. }
            | Kind::Read { .. } => false,
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
    pub(crate) fn filled(self, fill: Fill, cx: &mut Context<'_>) -> Self {
        match self.kind {
            Kind::Passing { body } => Self::tapping(body, fill, cx),
            Kind::Stored { bytes } => {
                Self::tapping(ResponseBody::full(bytes.unwrap_or_default()), fill, cx)
            }
            kind @ (Kind::Filling { .. } | Kind::Streamed { .. } | Kind::Read { .. }) => {
                Self { kind }
            }
        }
    }

    /// Passes a body through and stores a copy.
    pub(crate) fn filling(body: B, fill: Fill, cx: &mut Context<'_>) -> Self {
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
        let mut tapped = Box::pin(Tapped {
            body,
            fill,
            feed: None,
        });
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
        let queued_bytes = frames.iter().map(bytes_of).sum();
        let state = TeeState {
            frames,
            queued_bytes,
            pump: None,
            is_wanted: false,
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
                let pumped = Pumped::new(own, tapped, config);
                config.spawn(Box::pin(pump(pumped, None)));
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
    config: Arc<Config>,
    tapped: Option<Pin<Box<Tapped<B>>>>,
    /// The end of the time for which a body is read that nobody waits for, or that does not come.
    deadline: Option<Task>,
    /// Whether a frame has come since that time began.
    has_moved: bool,
    /// The end of the time for which the slowest reader may stall the body, while it does.
    stall: Option<Task>,
}

impl<B: Body> Pumped<B> {
    fn new(tee: Arc<Tee<B>>, tapped: Pin<Box<Tapped<B>>>, config: &Arc<Config>) -> Self {
        Self {
            tee,
            config: Arc::clone(config),
            tapped: Some(tapped),
            deadline: config.sleep(config.wait_at_most),
            has_moved: false,
            stall: None,
        }
    }

    /// Lets the requests that wait for the response stream it. No request is sent its head while an
    /// older response could still be sent to another one.
    async fn publish(&mut self) {
        let Some(tapped) = self.tapped.as_mut().filter(|tapped| tapped.feed.is_none()) else {
            return;
        };
        let replaced = tapped.fill.as_ref().and_then(|fill| fill.replaced.clone());
        if let Some(replaced) = replaced {
            let demoted = self.config.keeping.bound(replaced.demote(&self.config));
            // A store that failed keeps it until it expires.
            let _ = demoted.await;
        }
        if let Some(tapped) = &mut self.tapped {
            tapped.as_mut().publish();
        }
    }

    /// Waits until the slowest reader has taken more, and interrupts it if it does not.
    fn stall(&mut self, leader_stalls: bool, cx: &mut Context<'_>) -> Poll<()> {
        if self.stall.is_none() {
            self.stall = self.config.sleep(self.config.wait_at_most);
        }
        let Some(stall) = &mut self.stall else {
            return Poll::Pending;
        };
        ready!(stall.as_mut().poll(cx));
        self.stall = None;
        let feed = self.tapped.as_ref().and_then(|tapped| tapped.feed.as_ref());
        match feed {
            // The client of the call itself loses nothing; without the others it sets the pace.
            Some(feed) if leader_stalls => feed.interrupt(),
            Some(feed) => feed.cut_slowest(),
            None => {}
        }
        Poll::Ready(())
    }

    /// Waits for the body, until nobody else does.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = &mut self.deadline else {
            return Poll::Pending;
        };
        ready!(deadline.as_mut().poll(cx));
        let tapped = self.tapped.as_ref().filter(|tapped| tapped.has_waiters());
        let Some(tapped) = tapped else {
            // A body that hangs is its client's again.
            return Poll::Ready(());
        };
        if let (false, Some(fill)) = (mem::take(&mut self.has_moved), &tapped.fill) {
            fill.retire();
        }
        self.deadline = self.config.sleep(self.config.wait_at_most);
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl<B: Body<Data = Bytes>> Pumped<B> {
    /// Reads a body at the handler's pace for as long as it is stored or streamed.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(tapped) = self.tapped.as_mut().filter(|tapped| tapped.is_awaited()) else {
                return Poll::Ready(());
            };
            let bytes_max = self.config.rules.body_bytes_max;
            let leader_stalls = tapped.fill.is_none() && !self.tee.has_room(bytes_max, cx);
            let feed = tapped.feed.as_ref();
            if leader_stalls || feed.is_some_and(|feed| !feed.has_room(bytes_max, cx)) {
                ready!(self.stall(leader_stalls, cx));
                continue;
            }
            match tapped.as_mut().poll_frame(cx) {
                Poll::Ready(Some(frame)) => {
                    self.stall = None;
                    self.has_moved = true;
                    self.tee.push(frame);
                }
                Poll::Ready(None) => self.tapped = None,
                Poll::Pending => match self.take_complete() {
                    Some(complete) => complete.commit(),
                    None => return self.wait(cx),
                },
            }
        }
    }

    /// Takes the fill if all that was announced has come, and nobody waits for what else may come.
    fn take_complete(&mut self) -> Option<Fill> {
        let tapped = self.tapped.as_mut()?;
        let is_unread = self.tee.lock().client_is_gone && !tapped.has_readers();
        is_unread.then(|| tapped.as_mut().take_complete())?
    }
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

/// Reads a body without its client, and gives it back once nobody else waits for it.
async fn pump<B>(mut pumped: Pumped<B>, finishing: Option<Finishing>)
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Send,
{
    pumped.publish().await;
    poll_fn(|cx| pumped.poll(cx)).await;
    drop(finishing);
    let (tee, config) = (Arc::clone(&pumped.tee), Arc::clone(&pumped.config));
    drop(pumped);
    let is_wanted = mem::take(&mut tee.lock().is_wanted);
    if is_wanted {
        Tee::start_pump(&Arc::downgrade(&tee), &config);
    }
}

impl<B: Body> Tee<B> {
    fn push(&self, frame: Result<Frame<Bytes>, B::Error>) {
        let mut state = self.lock();
        if !state.client_is_gone {
            state.queued_bytes += bytes_of(&frame);
            state.frames.push_back(frame);
        }
        let client = state.client.take();
        drop(state);
        if let Some(client) = client {
            client.wake();
        }
    }

    /// Returns whether the client has room for more. If not, the task is woken once it has.
    fn has_room(&self, bytes_max: u64, cx: &Context<'_>) -> bool {
        let mut state = self.lock();
        let has_room = state.client_is_gone || state.queued_bytes < bytes_max;
        if !has_room {
            state.pump = Some(cx.waker().clone());
        }
        has_room
    }

    /// Gives the rest of a body back to its client.
    fn give_back(&self, rest: Source<B>) {
        let mut state = self.lock();
        if !state.client_is_gone {
            // A request that joins from here on finds that its client reads it.
            state.is_wanted = matches!(&rest, Source::Client(tapped) if tapped.is_wanted());
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
            state.queued_bytes -= bytes_of(&frame);
            state.count(&frame);
            let pump = state.pump.take();
            drop(state);
            if let Some(pump) = pump {
                pump.wake();
            }
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
        self.taken_bytes += bytes_of(frame);
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
            KindProj::Passing { body } => body.poll_frame(cx).map_err(Into::into),
            KindProj::Filling { filling } => filling.tee.poll_frame(cx).map_err(Into::into),
            KindProj::Streamed { streamed } => streamed.reader.poll_frame(cx).map_err(Into::into),
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
            Kind::Streamed { streamed } => streamed.reader.is_end_stream(),
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
            Kind::Streamed { streamed } => streamed.reader.size_hint(),
            Kind::Read { frames } => SizeHint::with_exact(data_bytes(frames)),
        }
    }
}

fn bytes_of<E>(frame: &Result<Frame<Bytes>, E>) -> u64 {
    let data = frame.as_ref().ok().and_then(Frame::data_ref);
    data.map_or(0, |data| data.len() as u64)
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
            Kind::Streamed { .. } => "CacheBody(streamed)",
            Kind::Stored { .. } | Kind::Read { .. } => "CacheBody(stored)",
        })
    }
}

impl<B> Tapped<B> {
    /// Takes the fill, if all that was announced has come.
    fn take_complete(self: Pin<&mut Self>) -> Option<Fill> {
        self.project().fill.take_if(|fill| fill.is_complete())
    }

    fn has_readers(&self) -> bool {
        self.feed.as_ref().is_some_and(Feed::has_readers)
    }

    /// Returns whether another request waits for the response, or streams it.
    fn has_waiters(&self) -> bool {
        self.is_wanted() || self.has_readers()
    }

    /// Returns whether another request waits for the response to be stored.
    fn is_wanted(&self) -> bool {
        self.fill.as_ref().is_some_and(Fill::has_waiters)
    }

    /// Returns whether the body is stored or streamed.
    fn is_awaited(&self) -> bool {
        self.fill.is_some() || self.has_readers()
    }

    /// Lets the requests that wait for the response stream it.
    fn publish(self: Pin<&mut Self>) {
        let this = self.project();
        let relay = this.fill.as_mut().and_then(Fill::stream);
        *this.feed = relay.map(|relay| Feed::new(&relay));
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
        let pump = state.pump.take();
        drop(state);
        if let Some(pump) = pump {
            pump.wake();
        }
        let Source::Client(mut tapped) = source else {
            return;
        };
        match tapped.as_mut().take_complete() {
            Some(complete) => complete.commit(),
            None if tapped.fill.is_some() => (self.finish)(Arc::clone(&self.tee), tapped),
            None => {}
        }
    }
}

/// Reads a body to its end after its client has gone away, if little is left of it or others wait for
/// it.
fn finish<B>(tee: Arc<Tee<B>>, tapped: Pin<Box<Tapped<B>>>)
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Send,
{
    if let Some(finishing) = tapped.fill.as_ref().and_then(Fill::begin_to_finish) {
        let config = Arc::clone(finishing.config());
        let pumped = Pumped::new(tee, tapped, &config);
        config.spawn(Box::pin(pump(pumped, Some(finishing))));
    }
}
