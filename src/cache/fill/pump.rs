//! Reading a body independently of its client.

use std::{
    future::poll_fn,
    mem,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
    thread,
};

use bytes::Bytes;
use http_body::Body;

use super::{
    tapped::Tapped,
    tee::{Source, Tee},
    writer::{Finishing, ResponseFill},
};
use crate::{cache::config::Config, core::runtime::Task};

impl<B> Tee<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Send,
{
    /// Registers the pump, which the first waiter starts.
    pub(super) fn offer_pump(self: &Arc<Self>, config: &Arc<Config>) {
        let (tee, config) = (Arc::downgrade(self), Arc::clone(config));
        let start = Arc::new(move || match config.can_spawn() {
            true => {
                Self::start_pump(&tee, &config);
                true
            }
            false => false,
        });
        // The pump may start immediately: the state must not be locked.
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

/// A body that the pump reads. Dropping it returns the body to its client.
pub(super) struct Pumped<B: Body> {
    tee: Arc<Tee<B>>,
    config: Arc<Config>,
    tapped: Option<Pin<Box<Tapped<B>>>>,
    /// The deadline for a body without waiters, or without progress.
    deadline: Option<Task>,
    /// `true` if a frame has arrived since that deadline was set.
    has_moved: bool,
    /// The deadline for the slowest reader, while it stalls the body.
    stall: Option<Task>,
}

impl<B: Body> Pumped<B> {
    pub(super) fn new(tee: Arc<Tee<B>>, tapped: Pin<Box<Tapped<B>>>, config: &Arc<Config>) -> Self {
        Self {
            tee,
            config: Arc::clone(config),
            tapped: Some(tapped),
            deadline: config.sleep(config.max_wait),
            has_moved: false,
            stall: None,
        }
    }

    /// Allows the waiters to stream the response. The stored responses that it replaces are
    /// invalidated first, so that no request receives the older one after the newer one.
    pub(super) async fn publish(&mut self) {
        let Some(tapped) = self.tapped.as_mut().filter(|tapped| tapped.feed.is_none()) else {
            return;
        };
        if let Some(write) = tapped.fill.as_ref().map(ResponseFill::make_way) {
            // If the store fails, it retains the entries until they expire.
            let _ = write.await;
        }
        if let Some(tapped) = &mut self.tapped {
            tapped.as_mut().publish();
        }
    }

    /// Waits until the slowest reader has taken more, and interrupts it at the deadline.
    fn stall(&mut self, leader_stalls: bool, cx: &mut Context<'_>) -> Poll<()> {
        if self.stall.is_none() {
            self.stall = self.config.sleep(self.config.max_wait);
        }
        let Some(stall) = &mut self.stall else {
            return Poll::Pending;
        };
        ready!(stall.as_mut().poll(cx));
        self.stall = None;
        let feed = self.tapped.as_ref().and_then(|tapped| tapped.feed.as_ref());
        match feed {
            // The client of the call itself loses nothing. Without the waiters, it sets the pace.
            Some(feed) if leader_stalls => feed.interrupt(),
            Some(feed) => feed.cut_slowest(),
            None => {}
        }
        Poll::Ready(())
    }

    /// Waits for the body for as long as there are waiters.
    pub(super) fn wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = &mut self.deadline else {
            return Poll::Pending;
        };
        ready!(deadline.as_mut().poll(cx));
        let tapped = self.tapped.as_ref().filter(|tapped| tapped.has_waiters());
        let Some(tapped) = tapped else {
            // A body that hangs is returned to its client.
            return Poll::Ready(());
        };
        if let (false, Some(fill)) = (mem::take(&mut self.has_moved), &tapped.fill) {
            fill.retire();
        }
        self.deadline = self.config.sleep(self.config.max_wait);
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
            let max_bytes = self.config.rules.max_body_bytes;
            let leader_stalls = tapped.fill.is_none() && !self.tee.has_room(max_bytes, cx);
            let feed = tapped.feed.as_ref();
            if leader_stalls || feed.is_some_and(|feed| !feed.has_room(max_bytes, cx)) {
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

    /// Takes the fill if the expected length has arrived, and nothing waits for further frames.
    pub(super) fn take_complete(&mut self) -> Option<ResponseFill> {
        let tapped = self.tapped.as_mut()?;
        let is_unread = self.tee.lock().client_has_disconnected && !tapped.has_readers();
        is_unread.then(|| tapped.as_mut().take_complete())?
    }
}

impl<B: Body> Drop for Pumped<B> {
    fn drop(&mut self) {
        let rest = match self.tapped.take() {
            None => Source::Ended,
            // A body that has panicked is not polled again: its client panics, too.
            Some(_) if thread::panicking() => Source::Panicked,
            Some(tapped) => Source::Client(tapped),
        };
        self.tee.give_back(rest);
    }
}

/// Reads a body independently of its client, and returns it once there are no more waiters.
pub(super) async fn pump<B>(mut pumped: Pumped<B>, finishing: Option<Finishing>)
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

/// Reads a body to its end after its client has disconnected, if little is left of it or other
/// requests wait for it.
pub(super) fn finish<B>(tee: Arc<Tee<B>>, tapped: Pin<Box<Tapped<B>>>)
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Send,
{
    if let Some(finishing) = tapped.fill.as_ref().and_then(ResponseFill::begin_to_finish) {
        let config = Arc::clone(finishing.config());
        let pumped = Pumped::new(tee, tapped, &config);
        config.spawn(Box::pin(pump(pumped, Some(finishing))));
    }
}
