//! A store query that many requests wait for.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use crate::{
    api_key::record::record::StoredKey,
    core::{
        error::StoreErrorKind,
        single_flight::{Flight, FlightWaiter},
        store_api::store_future::Pending,
    },
};

/// The store's reply. Each waiter receives a copy, so only the kind of a failure is stored.
pub(crate) type FindResult = Result<Option<StoredKey>, StoreErrorKind>;

/// A query in progress. A waiter that is polled drives the query during that poll. The query
/// therefore makes progress while any request waits for it, and it needs no separate task.
pub(crate) struct RecordFlight {
    flight: Arc<Flight<FindResult>>,
    /// `None` once the query has completed.
    question: Mutex<Option<Pending<Option<StoredKey>>>>,
}

impl RecordFlight {
    pub(crate) fn new(question: Pending<Option<StoredKey>>) -> Self {
        Self {
            flight: Arc::default(),
            question: Mutex::new(Some(question)),
        }
    }

    pub(super) fn join(&self) -> FlightWaiter<FindResult> {
        self.flight.join()
    }

    pub(super) fn has_waiters(&self) -> bool {
        self.flight.waiters() > 0
    }

    /// Drives the query on behalf of a waiter. A waiter that is dropped does not need to wake
    /// another waiter: a query that can make progress wakes all waiters, and each of them can drive
    /// the query.
    pub(crate) fn poll(
        &self,
        waiter: &FlightWaiter<FindResult>,
        cx: &Context<'_>,
    ) -> Poll<FindResult> {
        let mut question = lock(&self.question);
        // Register first, so that a wake-up during the poll of the query is not lost.
        if let Poll::Ready(result) = waiter.poll(cx) {
            return Poll::Ready(result);
        }
        let Some(mut asked) = question.take() else {
            // The query has completed, and its result is about to be published.
            return Poll::Pending;
        };
        // If the query panics, the other waiters receive `Unavailable`.
        let mut leader = self.flight.lead(Err(StoreErrorKind::Unavailable));
        let waker = Waker::from(Arc::clone(&self.flight));
        match asked.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Pending => {
                *question = Some(asked);
                leader.resign();
                Poll::Pending
            }
            Poll::Ready(result) => {
                drop(question);
                let result = result.map_err(|error| error.kind());
                leader.set_outcome(result.clone());
                Poll::Ready(result)
            }
        }
    }
}

impl fmt::Debug for RecordFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Flight")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A query that panics is removed, so a poisoned lock is consistent.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, poll_fn},
        panic::{AssertUnwindSafe, catch_unwind},
        sync::atomic::{AtomicUsize, Ordering},
        task::Wake,
    };

    use super::*;

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A separate waker: no two wakers are the same.
    struct Task(Arc<Woken>);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            Arc::clone(&self.0).wake();
        }
    }

    fn poll(
        flight: &RecordFlight,
        waiter: &FlightWaiter<FindResult>,
        woken: &Arc<Woken>,
    ) -> Poll<FindResult> {
        let waker = Waker::from(Arc::new(Task(Arc::clone(woken))));
        flight.poll(waiter, &Context::from_waker(&waker))
    }

    /// A flight with this number of waiters, each with a waker.
    fn boarded(
        question: Pending<Option<StoredKey>>,
        waiters: usize,
    ) -> (RecordFlight, Vec<FlightWaiter<FindResult>>, Arc<Woken>) {
        let (flight, woken) = (RecordFlight::new(question), Arc::default());
        let join = |_| {
            let waiter = flight.join();
            assert!(poll(&flight, &waiter, &woken).is_pending());
            waiter
        };
        let waiters = (0..waiters).map(join).collect();
        (flight, waiters, woken)
    }

    #[test]
    fn leaving_wakes_no_other_waiter() {
        let (flight, waiters, woken) = boarded(Box::pin(pending()), 1_000);
        drop(waiters);
        assert_eq!(woken.0.load(Ordering::SeqCst), 0);
        assert!(!flight.has_waiters());
    }

    #[test]
    fn progress_wakes_each_waiter_once() {
        let waker = Arc::new(Mutex::new(None::<Waker>));
        let own = Arc::clone(&waker);
        let question = poll_fn(move |cx| {
            *lock(&own) = Some(cx.waker().clone());
            Poll::Pending
        });
        let (_flight, _waiters, woken) = boarded(Box::pin(question), 1_000);
        lock(&waker).take().unwrap().wake();
        assert_eq!(woken.0.load(Ordering::SeqCst), 1_000);
    }

    #[test]
    fn a_waiter_that_polls_again_has_one_waker() {
        let (flight, waiters, woken) = boarded(Box::pin(pending()), 1);
        for _ in 0..9 {
            assert!(poll(&flight, &waiters[0], &woken).is_pending());
        }
        flight.flight.wake_all();
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn question_that_panics_is_unavailable_to_the_other_waiters() {
        let mut polls = 0;
        let question = poll_fn(move |_| {
            polls += 1;
            assert!(polls <= 2, "the store fails");
            Poll::Pending
        });
        let (flight, waiters, woken) = boarded(Box::pin(question), 2);
        let panicking = AssertUnwindSafe(|| poll(&flight, &waiters[0], &woken));
        assert!(catch_unwind(panicking).is_err());
        assert_eq!(woken.0.load(Ordering::SeqCst), 2);
        let result = poll(&flight, &waiters[1], &woken);
        assert!(matches!(
            result,
            Poll::Ready(Err(StoreErrorKind::Unavailable))
        ));
    }
}
