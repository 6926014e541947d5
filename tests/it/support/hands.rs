//! A runtime whose sleepers wake when the clock is moved by hand.

use std::{
    fmt,
    future::poll_fn,
    sync::{Arc, Mutex},
    task::{Poll, Waker},
    time::Duration,
};

use portcullis::{
    Clock, ManualClock, Runtime, StoreErrorKind, StoreFuture, Task,
    rate_limit::{Policy, RateLimitStore},
    store::{
        MemoryStore, StoreKeys,
        backend::{Charge, Decisions, Refund, StoreKey},
    },
};

/// Sleeps by a clock that stands still until it is moved.
#[derive(Clone, Default)]
pub(crate) struct Hands {
    pub(crate) clock: ManualClock,
    asleep: Arc<Mutex<Vec<Waker>>>,
}

impl Hands {
    /// Moves the clock, wakes all who sleep, and lets every task run until it waits.
    pub(crate) async fn advance(&self, by: Duration) {
        self.clock.advance(by);
        let asleep = std::mem::take(&mut *self.asleep.lock().unwrap());
        asleep.into_iter().for_each(Waker::wake);
        let_all_run().await;
    }
}

/// Lets every task of a runtime of one thread run until it waits.
pub(crate) async fn let_all_run() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

impl Runtime for Hands {
    fn spawn(&self, task: Task) {
        tokio::spawn(task);
    }

    fn sleep(&self, duration: Duration) -> Task {
        let (clock, asleep) = (self.clock.clone(), self.asleep.clone());
        let until = clock.now() + duration;
        Box::pin(poll_fn(move |cx| {
            if clock.now() >= until {
                return Poll::Ready(());
            }
            asleep.lock().unwrap().push(cx.waker().clone());
            Poll::Pending
        }))
    }
}

impl fmt::Debug for Hands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hands")
    }
}

/// A store that is always unavailable.
#[derive(Clone, Debug, Default)]
pub(crate) struct Failing(MemoryStore);

impl RateLimitStore for Failing {
    fn keys(&self) -> &StoreKeys {
        RateLimitStore::keys(&self.0)
    }

    fn take(&self, _: &StoreKey, _: &[Charge<'_>]) -> StoreFuture<Decisions> {
        StoreFuture::failed(StoreErrorKind::Unavailable)
    }

    fn peek(&self, _: &StoreKey, _: &[Charge<'_>]) -> StoreFuture<Decisions> {
        StoreFuture::failed(StoreErrorKind::Unavailable)
    }

    fn refund(&self, _: &StoreKey, _: &[Refund<'_>]) -> StoreFuture<()> {
        StoreFuture::failed(StoreErrorKind::Unavailable)
    }

    fn reset(&self, _: &StoreKey, _: &[&Policy]) -> StoreFuture<()> {
        StoreFuture::failed(StoreErrorKind::Unavailable)
    }
}
