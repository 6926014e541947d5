//! The timeout that a layer applies to its store.

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

/// The timeout that a layer applies to store calls, for every kind of store.
#[derive(Clone, Default)]
pub(crate) struct Deadline {
    after: Option<Duration>,
    /// `true` unless the application has set the timeout.
    is_default: bool,
    /// The runtime of the timer, which is the layer's runtime by default.
    runtime: Option<Arc<dyn Runtime>>,
}

impl Deadline {
    /// Creates a default timeout.
    pub(crate) const fn after(duration: Duration) -> Self {
        Self {
            after: Some(duration),
            is_default: true,
            runtime: None,
        }
    }

    /// Sets the timeout, or disables it.
    pub(crate) fn set(&mut self, after: Option<Duration>) {
        self.after = after;
        self.is_default = false;
    }

    /// Returns no timeout if this is the default timeout and the store has its own timeout.
    pub(crate) fn beside(self, has_timeout: bool) -> Self {
        match self.is_default && has_timeout {
            true => Self::default(),
            false => self,
        }
    }

    /// Returns `true` if the timeout is zero.
    pub(crate) fn is_zero(&self) -> bool {
        self.after.is_some_and(|after| after.is_zero())
    }

    /// Sets the runtime of the timer.
    pub(crate) fn sleep_on(&mut self, runtime: Arc<dyn Runtime>) {
        self.runtime = Some(runtime);
    }

    /// Applies the timeout to a result. When the timeout elapses, the result fails with
    /// [`StoreErrorKind::Timeout`].
    ///
    /// The timeout starts at the first poll. A result that is available immediately has no
    /// overhead. Without a timer, there is no timeout.
    #[inline]
    pub(crate) fn bound<T: 'static>(&self, future: StoreFuture<T>) -> StoreFuture<T> {
        match (future, self.after) {
            (StoreFuture::Pending(pending), Some(after)) => {
                StoreFuture::Pending(Box::pin(InTime {
                    pending,
                    alarm: Alarm::NotSet(after, self.runtime.clone()),
                }))
            }
            (future @ (StoreFuture::Ready(_) | StoreFuture::Pending(_)), _) => future,
        }
    }
}

/// A result with a timeout.
struct InTime<T> {
    pending: Pending<T>,
    alarm: Alarm,
}

/// The timer of a pending result.
///
/// ```text
/// NotSet ─first poll─> Set ─timeout passed─> Last ─next turn─> timed out
///    └──no timer──> Broken
/// ```
enum Alarm {
    NotSet(Duration, Option<Arc<dyn Runtime>>),
    Set(Task),
    // In a busy process the reply may have arrived without its task having run: it has one more
    // turn.
    Last,
    /// There is no timer.
    Broken,
}

impl Alarm {
    /// Completes when the time has elapsed.
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
        // A result that arrives together with the timeout is used.
        if let Poll::Ready(result) = this.pending.as_mut().poll(cx) {
            return Poll::Ready(result);
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

    /// Fires when it is set, and records the duration.
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
        polled.map(|result| result.map_err(|error| error.kind()))
    }

    fn bell() -> (Deadline, Bell) {
        let (mut deadline, bell) = (Deadline::after(SHORT), Bell::default());
        deadline.sleep_on(Arc::new(bell.clone()));
        (deadline, bell)
    }

    #[test]
    fn pending_call_fails_after_its_timeout() {
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
    fn result_that_arrives_with_the_timer_is_returned() {
        let (deadline, bell) = bell();
        let comes = Arc::new(AtomicBool::new(false));
        let arrived = Arc::clone(&comes);
        let mut asked = deadline.bound(StoreFuture::pending(poll_fn(move |_| {
            match arrived.load(Ordering::SeqCst) {
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
    fn ready_results_and_disabled_timeouts_set_no_timer() {
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
    fn call_waits_without_timeout_outside_a_runtime() {
        let mut asked = Deadline::after(SHORT).bound(StoreFuture::pending(pending()));
        assert!(poll(&mut asked).is_pending());
    }
}
