//! Whether a layer's store answers, and how long that takes.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use crate::{
    audit::{Audit, AuditEvent},
    error::{StoreError, StoreErrorKind},
    record::{RecordHandle, StoreCall},
    store_future::{Pending, StoreFuture},
    time::{Clock, SystemClock, Timestamp},
};

/// Watches over what a layer asks its store: the auditor is told when it stops answering and when it
/// answers again, and a request's record of what it waited for.
///
/// A clone watches over the same store.
#[derive(Clone)]
pub(crate) struct StoreWatch {
    shared: Arc<Shared>,
}

struct Shared {
    layer: &'static str,
    audit: Audit,
    clock: SystemClock,
    is_down: AtomicBool,
}

impl StoreWatch {
    /// Watches over the store of this layer.
    pub(crate) fn new(layer: &'static str, audit: Audit) -> Self {
        Self {
            shared: Arc::new(Shared {
                layer,
                audit,
                clock: SystemClock::new(),
                is_down: AtomicBool::new(false),
            }),
        }
    }

    /// Notes an answer that was there at once.
    #[inline]
    pub(crate) fn answered_at_once(&self) {
        self.shared.answered();
    }

    /// Watches over an answer. It costs next to nothing where it is there at once.
    #[inline]
    pub(crate) fn over<T: 'static>(
        &self,
        answer: StoreFuture<T>,
        record: impl FnOnce() -> Option<RecordHandle>,
    ) -> StoreFuture<T> {
        match &answer {
            StoreFuture::Ready(None) => answer,
            StoreFuture::Ready(Some(Ok(_))) => {
                self.shared.answered();
                answer
            }
            StoreFuture::Ready(Some(Err(error))) => {
                self.shared
                    .note(&Err(error.kind()), record().as_ref(), None);
                answer
            }
            StoreFuture::Pending(_) => self.over_pending(answer, record()),
        }
    }

    fn over_pending<T: 'static>(
        &self,
        answer: StoreFuture<T>,
        record: Option<RecordHandle>,
    ) -> StoreFuture<T> {
        match answer {
            StoreFuture::Ready(answer) => StoreFuture::Ready(answer),
            StoreFuture::Pending(pending) => StoreFuture::Pending(Box::pin(Watched {
                asked_at: self.shared.clock.now(),
                shared: Arc::clone(&self.shared),
                pending,
                record,
            })),
        }
    }
}

impl fmt::Debug for StoreWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreWatch")
            .field("layer", &self.shared.layer)
            .field("is_down", &self.shared.is_down)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn note(
        &self,
        answer: &Result<(), StoreErrorKind>,
        record: Option<&RecordHandle>,
        asked_at: Option<Timestamp>,
    ) {
        if let Some(record) = record {
            record.push_store_call(StoreCall {
                layer: self.layer,
                duration: asked_at.map(|asked_at| self.clock.now() - asked_at),
                error: answer.err(),
            });
        }
        match answer {
            Ok(()) => self.answered(),
            Err(kind) => match *kind {
                StoreErrorKind::Unavailable
                | StoreErrorKind::Timeout
                | StoreErrorKind::Misconfigured => self.failed(*kind),
                // It has answered.
                StoreErrorKind::Conflict | StoreErrorKind::NotFound => self.answered(),
                // One entry is bad, or there is no room for one: the next may be well.
                StoreErrorKind::Corrupt | StoreErrorKind::Full => {}
            },
        }
    }

    #[inline]
    fn answered(&self) {
        // A plain load first: requests on all cores would fight over the line that a swap takes.
        if self.is_down.load(Ordering::Relaxed) && self.is_down.swap(false, Ordering::Relaxed) {
            self.audit.tell(|| AuditEvent::StoreUp {
                store: self.layer.into(),
            });
        }
    }

    fn failed(&self, kind: StoreErrorKind) {
        if !self.is_down.load(Ordering::Relaxed) && !self.is_down.swap(true, Ordering::Relaxed) {
            self.audit.tell(|| AuditEvent::StoreDown {
                store: self.layer.into(),
                kind,
            });
        }
    }
}

/// An answer that is on its way. Dropped before it is there, it says nothing of the store.
struct Watched<T> {
    pending: Pending<T>,
    shared: Arc<Shared>,
    record: Option<RecordHandle>,
    asked_at: Timestamp,
}

impl<T> Future for Watched<T> {
    type Output = Result<T, StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(self.pending.as_mut().poll(cx));
        let noted = answer.as_ref().map(|_| ()).map_err(StoreError::kind);
        self.shared
            .note(&noted, self.record.as_ref(), Some(self.asked_at));
        Poll::Ready(answer)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        sync::Mutex,
    };

    use super::*;
    use crate::audit::Auditor;

    #[derive(Clone, Debug, Default)]
    struct Ears(Arc<Mutex<Vec<&'static str>>>);

    impl Auditor for Ears {
        fn audit(&self, event: &AuditEvent) {
            self.0.lock().unwrap().push(event.name());
        }
    }

    const DOWN: &str = "portcullis.audit.store_down";
    const UP: &str = "portcullis.audit.store_up";

    fn ask(watch: &StoreWatch, answer: Result<u8, StoreErrorKind>, at_once: bool) -> RecordHandle {
        let record = RecordHandle::default();
        let answer = answer.map_err(StoreError::from);
        let answer = match at_once {
            true => StoreFuture::from(answer),
            false => StoreFuture::pending(ready(answer)),
        };
        let mut watched = watch.over(answer, || Some(record.clone()));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(Pin::new(&mut watched).poll(&mut cx).is_ready());
        record
    }

    #[test]
    fn each_change_of_state_is_told_once() {
        let ears = Ears::default();
        let watch = StoreWatch::new("cache", Audit::to(ears.clone()));
        for at_once in [true, false] {
            for _ in 0..3 {
                ask(&watch, Ok(7), at_once);
            }
            for kind in [StoreErrorKind::Timeout, StoreErrorKind::Unavailable] {
                ask(&watch, Err(kind), at_once);
            }
            ask(&watch, Err(StoreErrorKind::Corrupt), at_once);
            for _ in 0..3 {
                ask(&watch, Ok(7), at_once);
            }
            ask(&watch, Err(StoreErrorKind::Misconfigured), at_once);
            ask(&watch, Err(StoreErrorKind::Conflict), at_once);
        }
        let heard = ears.0.lock().unwrap();
        assert_eq!(*heard, [DOWN, UP, DOWN, UP, DOWN, UP, DOWN, UP]);
    }

    #[test]
    fn a_record_is_told_what_was_waited_for_and_what_failed() {
        let watch = StoreWatch::new("cache", Audit::default());
        let calls = |record: RecordHandle| {
            record.read(|slots| {
                let calls = slots.store_calls().iter();
                let told = |call: &StoreCall| (call.layer, call.duration.is_some(), call.error);
                calls.map(told).collect::<Vec<_>>()
            })
        };
        let timeout = StoreErrorKind::Timeout;
        assert_eq!(calls(ask(&watch, Ok(7), true)), []);
        assert_eq!(calls(ask(&watch, Ok(7), false)), [("cache", true, None)]);
        assert_eq!(
            calls(ask(&watch, Err(timeout), true)),
            [("cache", false, Some(timeout))]
        );
        assert_eq!(
            calls(ask(&watch, Err(timeout), false)),
            [("cache", true, Some(timeout))]
        );
    }

    #[test]
    fn a_question_that_is_given_up_says_nothing_of_the_store() {
        let ears = Ears::default();
        let watch = StoreWatch::new("cache", Audit::to(ears.clone()));
        drop(watch.over(StoreFuture::<u8>::pending(pending()), || None));
        assert!(ears.0.lock().unwrap().is_empty());
    }
}
