//! A body that is read by its client, or on behalf of the waiters.

use std::{
    collections::VecDeque,
    mem, panic,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::tapped::Tapped;
use crate::cache::flight::single_flight::PumpOffer;

/// The client's side of a body that is being stored. If it is dropped before the end, the body may
/// be [finished](finish) in the background.
pub(super) struct Filling<B: Body> {
    pub(super) tee: Arc<Tee<B>>,
    /// Set where the body is known to be `Send`.
    pub(super) finish: Finish<B>,
}

type Finish<B> = fn(Arc<Tee<B>>, Pin<Box<Tapped<B>>>);

/// A body that is read by its client, or by a [pump](pump) on behalf of the waiters.
///
/// The lock is never held while the body is polled or a task is woken: either may use the cache.
pub(super) struct Tee<B: Body> {
    pub(super) state: Mutex<TeeState<B>>,
}

pub(super) struct TeeState<B: Body> {
    /// Frames that the client has not taken yet.
    pub(super) frames: VecDeque<Result<Frame<Bytes>, B::Error>>,
    pub(super) source: Source<B>,
    /// The client's task, while it waits for the body or for the pump.
    pub(super) client: Option<Waker>,
    /// Starts the pump once the client's poll of the body is over.
    pub(super) start: Option<Box<dyn FnOnce() + Send>>,
    /// The length of the whole body. The next field counts the bytes that the client has taken.
    pub(super) size: SizeHint,
    pub(super) taken_bytes: u64,
    pub(super) client_has_disconnected: bool,
    /// The bytes of `frames`, and the pump's task, while it waits for the client to take some.
    pub(super) queued_bytes: u64,
    pub(super) pump: Option<Waker>,
    /// `true` if a request started to wait while the pump returned the body.
    pub(super) is_wanted: bool,
}

/// The owner of the rest of a body.
pub(super) enum Source<B: Body> {
    /// The client reads it.
    Client(Pin<Box<Tapped<B>>>),
    /// The client is polling it.
    Polled,
    /// The pump reads it.
    Pumped,
    /// It panicked while the pump read it.
    Panicked,
    Ended,
}

impl<B: Body> Tee<B> {
    pub(super) fn push(&self, frame: Result<Frame<Bytes>, B::Error>) {
        let mut state = self.lock();
        if !state.client_has_disconnected {
            state.queued_bytes += bytes_of(&frame);
            state.frames.push_back(frame);
        }
        let client = state.client.take();
        drop(state);
        if let Some(client) = client {
            client.wake();
        }
    }

    /// Returns `true` if the client has capacity for more. Otherwise the task is woken once it has.
    pub(super) fn has_room(&self, max_bytes: u64, cx: &Context<'_>) -> bool {
        let mut state = self.lock();
        let has_room = state.client_has_disconnected || state.queued_bytes < max_bytes;
        if !has_room {
            state.pump = Some(cx.waker().clone());
        }
        has_room
    }

    /// Returns the rest of a body to its client.
    pub(super) fn give_back(&self, rest: Source<B>) {
        let mut state = self.lock();
        if !state.client_has_disconnected {
            // A request that joins from now on sees that the client reads the body.
            state.is_wanted = matches!(&rest, Source::Client(tapped) if tapped.is_wanted());
            state.source = rest;
        }
        let client = state.client.take();
        drop(state);
        if let Some(client) = client {
            client.wake();
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, TeeState<B>> {
        // No user code runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Body<Data = Bytes>> Tee<B> {
    pub(super) fn poll_frame(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
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
            // From here on, the pump can take the body and its waker.
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
    pub(super) fn new(
        frames: VecDeque<Result<Frame<Bytes>, B::Error>>,
        source: Source<B>,
        size: SizeHint,
    ) -> Self {
        let queued_bytes = frames.iter().map(bytes_of).sum();
        Self {
            frames,
            queued_bytes,
            pump: None,
            is_wanted: false,
            source,
            client: None,
            start: None,
            size,
            taken_bytes: 0,
            client_has_disconnected: false,
        }
    }

    pub(super) fn pump_offer(&self) -> Option<PumpOffer> {
        let Source::Client(tapped) = &self.source else {
            return None;
        };
        let lead = tapped.fill.as_ref()?.lead.as_ref()?;
        Some(lead.pump_offer())
    }

    /// Returns `true` if the body is still being copied.
    pub(super) fn is_filling(&self) -> bool {
        match &self.source {
            Source::Client(tapped) => tapped.fill.is_some(),
            Source::Polled | Source::Pumped => true,
            Source::Panicked | Source::Ended => false,
        }
    }

    pub(super) fn wait(&mut self, cx: &Context<'_>) {
        match &mut self.client {
            Some(client) => client.clone_from(cx.waker()),
            None => self.client = Some(cx.waker().clone()),
        }
    }

    fn count(&mut self, frame: &Result<Frame<Bytes>, B::Error>) {
        self.taken_bytes += bytes_of(frame);
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self.size.exact() {
            Some(bytes) => SizeHint::with_exact(bytes.saturating_sub(self.taken_bytes)),
            None => SizeHint::default(),
        }
    }
}

impl<B: Body<Data = Bytes>> TeeState<B> {
    pub(super) fn is_end_stream(&self) -> bool {
        self.frames.is_empty()
            && match &self.source {
                Source::Client(tapped) => tapped.body.is_end_stream(),
                Source::Polled | Source::Pumped | Source::Panicked => false,
                Source::Ended => true,
            }
    }
}

impl<B: Body> Drop for Filling<B> {
    fn drop(&mut self) {
        let mut state = self.tee.lock();
        state.client_has_disconnected = true;
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

fn bytes_of<E>(frame: &Result<Frame<Bytes>, E>) -> u64 {
    let data = frame.as_ref().ok().and_then(Frame::data_ref);
    data.map_or(0, |data| data.len() as u64)
}
