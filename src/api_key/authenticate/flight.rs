//! One question to the store that many requests wait for.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt, mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use crate::{
    api_key::record::record::StoredKey,
    core::{error::StoreErrorKind, store_api::store_future::Pending},
};

/// What the store said. It is handed to each who waits, so a failure keeps its kind alone.
pub(crate) type Answer = Result<Option<StoredKey>, StoreErrorKind>;

/// A question that is under way. Whoever waits for it drives it, so it goes on as long as one
/// waits; no task of its own is needed.
pub(crate) struct RecordFlight {
    state: Mutex<RecordFlightState>,
    waiting: Arc<FlightWakers>,
    /// How many wait. Changed under the lock of the table where the flight is found.
    pub(super) passengers: AtomicUsize,
    seats: AtomicU64,
}

/// The place of one who waits among those who do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Seat(u64);

enum RecordFlightState {
    Asked(Pending<Option<StoredKey>>),
    Answered(Answer),
}

impl RecordFlight {
    pub(crate) fn new(question: Pending<Option<StoredKey>>) -> Self {
        Self {
            state: Mutex::new(RecordFlightState::Asked(question)),
            waiting: Arc::default(),
            passengers: AtomicUsize::new(0),
            seats: AtomicU64::new(0),
        }
    }

    /// Returns a seat that nobody else has.
    pub(super) fn take_seat(&self) -> Seat {
        Seat(self.seats.fetch_add(1, Ordering::Relaxed))
    }

    /// Drives the question on behalf of one who waits.
    pub(crate) fn poll(&self, seat: Seat, cx: &Context<'_>) -> Poll<Answer> {
        let mut state = lock(&self.state);
        // Should the question panic, those who wait beside are told that nobody knows.
        let panicked = RecordFlightState::Answered(Err(StoreErrorKind::Unavailable));
        let mut question = match mem::replace(&mut *state, panicked) {
            RecordFlightState::Asked(question) => question,
            RecordFlightState::Answered(answer) => {
                *state = RecordFlightState::Answered(answer.clone());
                return Poll::Ready(answer);
            }
        };
        // Registered first: who is woken while the question is polled comes back.
        self.waiting.add(seat, cx.waker());
        // Should the question panic, the others come back to hear of it.
        let wakes_others = WakesAll(&self.waiting);
        let waker = Waker::from(Arc::clone(&self.waiting));
        let polled = question.as_mut().poll(&mut Context::from_waker(&waker));
        let answer = match polled {
            Poll::Pending => {
                *state = RecordFlightState::Asked(question);
                mem::forget(wakes_others);
                return Poll::Pending;
            }
            Poll::Ready(answer) => answer.map_err(|error| error.kind()),
        };
        *state = RecordFlightState::Answered(answer.clone());
        drop(state);
        drop(wakes_others);
        Poll::Ready(answer)
    }

    /// Gives a seat up. Nobody needs to be woken: whenever the question gets on, all who wait are, and
    /// each of them can drive it.
    pub(crate) fn leave(&self, seat: Seat) {
        lock(&self.waiting.wakers).remove(&seat);
    }
}

/// Wakes all who wait when it is dropped.
struct WakesAll<'a>(&'a FlightWakers);

impl Drop for WakesAll<'_> {
    fn drop(&mut self) {
        self.0.wake_all();
    }
}

impl fmt::Debug for RecordFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Flight")
    }
}

/// The tasks to wake when the question has got on, by their seats: each is added and removed in the
/// same time, however many there are.
#[derive(Default)]
struct FlightWakers {
    wakers: Mutex<HashMap<Seat, Waker>>,
}

impl FlightWakers {
    fn add(&self, seat: Seat, waker: &Waker) {
        match lock(&self.wakers).entry(seat) {
            Entry::Occupied(mut own) => own.get_mut().clone_from(waker),
            Entry::Vacant(place) => drop(place.insert(waker.clone())),
        }
    }

    fn wake_all(&self) {
        let wakers = mem::take(&mut *lock(&self.wakers));
        wakers.into_values().for_each(Waker::wake);
    }
}

impl Wake for FlightWakers {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panicking question leaves behind is an answer, and whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn};

    use super::*;

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A flight with this number of waiters, each with a waker.
    fn boarded(
        question: Pending<Option<StoredKey>>,
        waiters: usize,
    ) -> (RecordFlight, Vec<Seat>, Arc<Woken>) {
        let (flight, woken) = (RecordFlight::new(question), Arc::new(Woken::default()));
        let seats: Vec<_> = (0..waiters)
            .map(|_| {
                let seat = flight.take_seat();
                let task = Arc::clone(&woken);
                // A waker of its own: no two of them are the same.
                let waker = Waker::from(Arc::new(Task(task)));
                assert!(flight.poll(seat, &Context::from_waker(&waker)).is_pending());
                seat
            })
            .collect();
        (flight, seats, woken)
    }

    struct Task(Arc<Woken>);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            Arc::clone(&self.0).wake();
        }
    }

    #[test]
    fn leaving_wakes_no_other_waiter() {
        let (flight, seats, woken) = boarded(Box::pin(pending()), 1_000);
        for seat in seats {
            flight.leave(seat);
        }
        assert_eq!(woken.0.load(Ordering::SeqCst), 0);
        assert!(lock(&flight.waiting.wakers).is_empty());
    }

    #[test]
    fn progress_wakes_each_waiter_once() {
        let waker = Arc::new(Mutex::new(None::<Waker>));
        let own = Arc::clone(&waker);
        let question = poll_fn(move |cx| {
            *lock(&own) = Some(cx.waker().clone());
            Poll::Pending
        });
        let (flight, _, woken) = boarded(Box::pin(question), 1_000);
        lock(&waker).take().unwrap().wake();
        assert_eq!(woken.0.load(Ordering::SeqCst), 1_000);
        drop(flight);
    }

    #[test]
    fn a_waiter_that_polls_again_has_one_waker() {
        let (flight, seats, woken) = boarded(Box::pin(pending()), 1);
        for _ in 0..9 {
            let waker = Waker::from(Arc::new(Task(Arc::clone(&woken))));
            let cx = Context::from_waker(&waker);
            assert!(flight.poll(seats[0], &cx).is_pending());
        }
        flight.waiting.wake_all();
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    }
}
