//! How long a layer waits for its store.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use super::store_future::{Pending, StoreFuture};
use crate::core::{
    error::{StoreError, StoreErrorKind},
    runtime::{self, Runtime, Task},
};

/// How long a layer waits for an answer of its store, whatever the store thinks of time itself: one
/// that never answers holds no request for longer.
#[derive(Clone, Default)]
pub(crate) struct Deadline {
    after: Option<Duration>,
    /// Whether nobody has said how long.
    is_default: bool,
    /// What sleeps; if nobody was named, what the layer happens to run on.
    runtime: Option<Arc<dyn Runtime>>,
}

impl Deadline {
    /// Waits for so long, unless it is told otherwise.
    pub(crate) const fn after(duration: Duration) -> Self {
        Self {
            after: Some(duration),
            is_default: true,
            runtime: None,
        }
    }

    /// Waits for so long from now on, or for ever.
    pub(crate) fn set(&mut self, after: Option<Duration>) {
        self.after = after;
        self.is_default = false;
    }

    /// Returns the deadline for a store that may have one of its own: where nobody has asked for
    /// another, that is enough.
    pub(crate) fn beside(self, has_timeout: bool) -> Self {
        match self.is_default && has_timeout {
            true => Self::default(),
            false => self,
        }
    }

    /// Returns whether no answer would ever be in time.
    pub(crate) fn is_zero(&self) -> bool {
        self.after.is_some_and(|after| after.is_zero())
    }

    /// Names what sleeps.
    pub(crate) fn sleep_on(&mut self, runtime: Arc<dyn Runtime>) {
        self.runtime = Some(runtime);
    }

    /// Makes an answer one that comes in time: a failure by [`StoreErrorKind::Timeout`], if need be.
    ///
    /// The time begins when somebody first waits. An answer that is there at once costs nothing;
    /// where nothing can sleep, an answer is waited for as long as it takes.
    #[inline]
    pub(crate) fn bound<T: 'static>(&self, answer: StoreFuture<T>) -> StoreFuture<T> {
        match (answer, self.after) {
            (StoreFuture::Pending(pending), Some(after)) => {
                StoreFuture::Pending(Box::pin(InTime {
                    pending,
                    alarm: Alarm::NotSet(after, self.runtime.clone()),
                }))
            }
            (answer @ (StoreFuture::Ready(_) | StoreFuture::Pending(_)), _) => answer,
        }
    }
}

/// An answer, or none in time.
struct InTime<T> {
    pending: Pending<T>,
    alarm: Alarm,
}

/// The timer of a reply that is waited for.
///
/// ```text
/// NotSet ─first poll─> Set ─timeout passed─> Last ─next turn─> timed out
///    └──no timer──> Broken
/// ```
enum Alarm {
    NotSet(Duration, Option<Arc<dyn Runtime>>),
    Set(Task),
    /// In a busy process the reply may have arrived, and its task have yet to run: it gets one turn.
    Last,
    /// Nothing here has a timer.
    Broken,
}

impl Alarm {
    /// Returns whether the time is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            *self = match self {
                Self::NotSet(after, runtime) => match sleep(*after, runtime.as_ref()) {
                    Some(timer) => Self::Set(timer),
                    None => Self::Broken,
                },
                Self::Set(timer) => {
                    ready!(timer.as_mut().poll(cx));
                    *self = Self::Last;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Self::Last => return Poll::Ready(()),
                Self::Broken => return Poll::Pending,
            };
        }
    }
}

fn sleep(time: Duration, runtime: Option<&Arc<dyn Runtime>>) -> Option<Task> {
    match runtime {
        Some(runtime) => runtime.try_sleep(time),
        None => runtime::sleep_here(time),
    }
}

impl<T> Future for InTime<T> {
    type Output = Result<T, StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        // An answer that comes with the alarm is still an answer.
        if let Poll::Ready(answer) = this.pending.as_mut().poll(cx) {
            return Poll::Ready(answer);
        }
        let over = this.alarm.poll(cx);
        over.map(|()| Err(StoreErrorKind::Timeout.into()))
    }
}

impl fmt::Debug for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Deadline").field(&self.after).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, poll_fn},
        sync::{
            Mutex,
            atomic::{AtomicBool, Ordering},
        },
        task::Waker,
    };

    use super::*;

    /// Rings when it is told to, and remembers for how long it was set.
    #[derive(Clone, Debug, Default)]
    struct Bell {
        rings: Arc<AtomicBool>,
        set: Arc<Mutex<Vec<Duration>>>,
    }

    impl Runtime for Bell {
        fn spawn(&self, _: Task) {}

        fn sleep(&self, duration: Duration) -> Task {
            self.set.lock().unwrap().push(duration);
            let rings = Arc::clone(&self.rings);
            Box::pin(poll_fn(move |_| match rings.load(Ordering::SeqCst) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }))
        }
    }

    const SHORT: Duration = Duration::from_millis(50);

    fn poll(asked: &mut StoreFuture<u8>) -> Poll<Result<u8, StoreErrorKind>> {
        let mut cx = Context::from_waker(Waker::noop());
        let polled = Pin::new(asked).poll(&mut cx);
        polled.map(|answer| answer.map_err(|error| error.kind()))
    }

    fn bell() -> (Deadline, Bell) {
        let (mut deadline, bell) = (Deadline::after(SHORT), Bell::default());
        deadline.sleep_on(Arc::new(bell.clone()));
        (deadline, bell)
    }

    #[test]
    fn an_answer_that_never_comes_is_a_timeout_once_the_time_is_over() {
        let (deadline, bell) = bell();
        let mut asked = deadline.bound(StoreFuture::pending(pending()));
        assert!(bell.set.lock().unwrap().is_empty());
        for _ in 0..3 {
            assert!(poll(&mut asked).is_pending());
        }
        assert_eq!(*bell.set.lock().unwrap(), [SHORT]);
        bell.rings.store(true, Ordering::SeqCst);
        assert!(poll(&mut asked).is_pending());
        assert_eq!(poll(&mut asked), Poll::Ready(Err(StoreErrorKind::Timeout)));
    }

    #[test]
    fn reply_that_is_noticed_in_the_turn_after_the_timeout_is_used() {
        let (deadline, bell) = bell();
        let comes = Arc::new(AtomicBool::new(false));
        let reply = Arc::clone(&comes);
        let mut asked = deadline.bound(StoreFuture::pending(poll_fn(move |_| {
            match reply.load(Ordering::SeqCst) {
                true => Poll::Ready(Ok(7)),
                false => Poll::Pending,
            }
        })));
        bell.rings.store(true, Ordering::SeqCst);
        assert!(poll(&mut asked).is_pending());
        comes.store(true, Ordering::SeqCst);
        assert_eq!(poll(&mut asked), Poll::Ready(Ok(7)));
    }

    #[test]
    fn an_answer_that_comes_with_the_bell_is_an_answer() {
        let (deadline, bell) = bell();
        let comes = Arc::new(AtomicBool::new(false));
        let answer = Arc::clone(&comes);
        let mut asked = deadline.bound(StoreFuture::pending(poll_fn(move |_| {
            match answer.load(Ordering::SeqCst) {
                true => Poll::Ready(Ok(7)),
                false => Poll::Pending,
            }
        })));
        assert!(poll(&mut asked).is_pending());
        comes.store(true, Ordering::SeqCst);
        bell.rings.store(true, Ordering::SeqCst);
        assert_eq!(poll(&mut asked), Poll::Ready(Ok(7)));
    }

    #[test]
    fn what_is_there_at_once_sets_no_bell_and_without_a_deadline_none_is_set() {
        let (mut deadline, bell) = bell();
        assert_eq!(
            poll(&mut deadline.bound(StoreFuture::ready(7))),
            Poll::Ready(Ok(7))
        );
        deadline.set(None);
        assert!(poll(&mut deadline.bound(StoreFuture::pending(pending()))).is_pending());
        assert!(bell.set.lock().unwrap().is_empty());
    }

    #[test]
    fn a_stores_own_deadline_is_enough_unless_another_was_asked_for() {
        let (deadline, bell) = bell();
        let mut asked = deadline
            .clone()
            .beside(true)
            .bound(StoreFuture::pending(pending()));
        assert!(poll(&mut asked).is_pending() && bell.set.lock().unwrap().is_empty());
        let mut named = deadline.clone();
        named.set(Some(SHORT));
        for bound in [deadline.beside(false), named.beside(true)] {
            let mut asked = bound.bound(StoreFuture::pending(pending()));
            assert!(poll(&mut asked).is_pending());
        }
        assert_eq!(bell.set.lock().unwrap().len(), 2);
    }

    #[test]
    fn outside_of_any_runtime_an_answer_is_waited_for() {
        let mut asked = Deadline::after(SHORT).bound(StoreFuture::pending(pending()));
        assert!(poll(&mut asked).is_pending());
    }
}
