//! One question to the store that many requests wait for.

use std::{
    fmt, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicUsize},
    task::{Context, Poll, Wake, Waker},
};

use super::record::StoredKey;
use crate::{error::StoreErrorKind, store_future::Pending};

/// What the store said. It is handed to each who waits, so a failure keeps its kind alone.
pub(super) type Answer = Result<Option<StoredKey>, StoreErrorKind>;

/// A question that is under way. Whoever waits for it drives it, so it goes on as long as one
/// waits; no task of its own is needed.
pub(super) struct Flight {
    state: Mutex<State>,
    waiting: Arc<Waiting>,
    /// How many wait. Changed under the lock of the table where the flight is found.
    pub(super) passengers: AtomicUsize,
}

enum State {
    Asked(Pending<Option<StoredKey>>),
    Answered(Answer),
}

impl Flight {
    pub(super) fn new(question: Pending<Option<StoredKey>>) -> Self {
        Self {
            state: Mutex::new(State::Asked(question)),
            waiting: Arc::default(),
            passengers: AtomicUsize::new(0),
        }
    }

    /// Drives the question on behalf of one who waits.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<Answer> {
        let mut state = lock(&self.state);
        // Should the question panic, those who wait beside are told that nobody knows.
        let panicked = State::Answered(Err(StoreErrorKind::Unavailable));
        let mut question = match mem::replace(&mut *state, panicked) {
            State::Asked(question) => question,
            State::Answered(answer) => {
                *state = State::Answered(answer.clone());
                return Poll::Ready(answer);
            }
        };
        // Registered first: who is woken while the question is polled comes back.
        self.waiting.add(cx.waker());
        let waker = Waker::from(Arc::clone(&self.waiting));
        let polled = question.as_mut().poll(&mut Context::from_waker(&waker));
        let answer = match polled {
            Poll::Pending => {
                *state = State::Asked(question);
                return Poll::Pending;
            }
            Poll::Ready(answer) => answer.map_err(|error| error.kind()),
        };
        *state = State::Answered(answer.clone());
        drop(state);
        self.waiting.wake_all();
        Poll::Ready(answer)
    }

    /// Wakes all who wait, so that another one drives the question when its driver has left.
    pub(super) fn wake_all(&self) {
        self.waiting.wake_all();
    }
}

impl fmt::Debug for Flight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Flight")
    }
}

/// The tasks to wake when the question has got on.
#[derive(Default)]
struct Waiting {
    wakers: Mutex<Vec<Waker>>,
}

impl Waiting {
    fn add(&self, waker: &Waker) {
        let mut wakers = lock(&self.wakers);
        if !wakers.iter().any(|own| own.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }

    fn wake_all(&self) {
        let wakers = mem::take(&mut *lock(&self.wakers));
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panicking question leaves behind is an answer, and whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
