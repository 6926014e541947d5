//! Monitors the availability and latency of a layer's store.

use std::{
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use super::store_future::{Pending, StoreFuture};
use crate::core::{
    audit::{Audit, AuditEvent},
    error::{StoreError, StoreErrorKind},
    notice::{self, onset::Onset},
    record::{RecordHandle, StoreCall},
    time::{Clock, SystemClock, Timestamp},
};

/// Monitors a layer's calls to its store. The auditor receives an event when the store becomes
/// unavailable, when it becomes available again, and when it is full. Each call is added to the
/// request's record.
///
/// Clones monitor the same store.
#[derive(Clone)]
pub(crate) struct StoreWatch {
    pub(super) shared: Arc<MonitorInner>,
}

pub(super) struct MonitorInner {
    layer: &'static str,
    audit: Audit,
    clock: SystemClock,
    is_down: AtomicBool,
    full: Onset,
}

impl StoreWatch {
    /// Creates the monitor of a layer's store.
    pub(crate) fn new(layer: &'static str, audit: Audit) -> Self {
        Self {
            shared: Arc::new(MonitorInner {
                layer,
                audit,
                clock: SystemClock::new(),
                is_down: AtomicBool::new(false),
                full: Onset::default(),
            }),
        }
    }

    /// Monitors a result. The overhead is negligible if the result is available immediately.
    #[inline]
    pub(crate) fn over<T: 'static>(
        &self,
        future: StoreFuture<T>,
        record: impl FnOnce() -> Option<RecordHandle>,
    ) -> StoreFuture<T> {
        match &future {
            StoreFuture::Ready(None) => future,
            StoreFuture::Ready(Some(Ok(_))) => {
                self.shared.answered();
                future
            }
            StoreFuture::Ready(Some(Err(error))) => {
                self.shared.note(Err(error), record().as_ref(), None);
                future
            }
            StoreFuture::Pending(_) => self.over_pending(future, record()),
        }
    }

    fn over_pending<T: 'static>(
        &self,
        future: StoreFuture<T>,
        record: Option<RecordHandle>,
    ) -> StoreFuture<T> {
        match future {
            StoreFuture::Ready(result) => StoreFuture::Ready(result),
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

impl MonitorInner {
    fn note(
        &self,
        result: Result<(), &StoreError>,
        record: Option<&RecordHandle>,
        asked_at: Option<Timestamp>,
    ) {
        if let Some(record) = record {
            record.push_store_call(StoreCall {
                layer: self.layer,
                duration: asked_at.map(|asked_at| self.clock.now() - asked_at),
                error: result.err().map(StoreError::kind),
            });
        }
        match result {
            Ok(()) => self.answered(),
            Err(error) => match error.kind() {
                kind @ (StoreErrorKind::Unavailable
                | StoreErrorKind::Timeout
                | StoreErrorKind::Misconfigured) => self.failed(kind),
                // The store is available.
                StoreErrorKind::Conflict | StoreErrorKind::NotFound => self.answered(),
                // Only this entry is invalid.
                StoreErrorKind::Corrupt => {}
                StoreErrorKind::Full => self.refused(error),
            },
        }
    }

    #[inline]
    pub(super) fn answered(&self) {
        // Load before swap, since a swap on each request would contend for the cache line.
        if self.is_down.load(Ordering::Relaxed) && self.is_down.swap(false, Ordering::Relaxed) {
            self.audit.emit(|| AuditEvent::StoreUp {
                store: self.layer.into(),
            });
        }
    }

    /// Reports a full store. A full store may still serve reads, so its availability does not
    /// change.
    fn refused(&self, error: &StoreError) {
        if !self.full.begins(self.clock.now()) {
            return;
        }
        let cause = error.source().map(ToString::to_string).unwrap_or_default();
        let (layer, kind) = (self.layer, error.kind());
        notice::once(&AtomicBool::new(false), || {
            let colon = if cause.is_empty() { "" } else { ": " };
            format!("the store of layer `{layer}` rejects writes: {kind}{colon}{cause}")
        });
        self.audit.emit(|| AuditEvent::StoreRejected {
            store: layer.into(),
            kind,
            cause: cause.into(),
        });
    }

    fn failed(&self, kind: StoreErrorKind) {
        if !self.is_down.load(Ordering::Relaxed) && !self.is_down.swap(true, Ordering::Relaxed) {
            self.audit.emit(|| AuditEvent::StoreDown {
                store: self.layer.into(),
                kind,
            });
        }
    }
}

/// A pending result. If the result is dropped before it completes, nothing is recorded.
struct Watched<T> {
    pending: Pending<T>,
    pub(super) shared: Arc<MonitorInner>,
    record: Option<RecordHandle>,
    asked_at: Timestamp,
}

impl<T> Future for Watched<T> {
    type Output = Result<T, StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(self.pending.as_mut().poll(cx));
        let noted = result.as_ref().map(|_| ());
        self.shared
            .note(noted, self.record.as_ref(), Some(self.asked_at));
        Poll::Ready(result)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        sync::Mutex,
    };

    use super::*;
    use crate::core::audit::Auditor;

    #[derive(Clone, Debug, Default)]
    struct Ears(Arc<Mutex<Vec<&'static str>>>);

    impl Auditor for Ears {
        fn audit(&self, event: &AuditEvent) {
            self.0.lock().unwrap().push(event.name());
        }
    }

    const DOWN: &str = "portcullis.audit.store_down";
    const UP: &str = "portcullis.audit.store_up";

    fn ask(watch: &StoreWatch, result: Result<u8, StoreErrorKind>, at_once: bool) -> RecordHandle {
        let record = RecordHandle::default();
        let result = result.map_err(StoreError::from);
        let result = match at_once {
            true => StoreFuture::from(result),
            false => StoreFuture::pending(ready(result)),
        };
        let mut watched = watch.over(result, || Some(record.clone()));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(Pin::new(&mut watched).poll(&mut cx).is_ready());
        record
    }

    #[test]
    fn emits_each_availability_change_once() {
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
    fn full_store_is_reported_once_although_reads_succeed() {
        let ears = Ears::default();
        let watch = StoreWatch::new("cache", Audit::to(ears.clone()));
        for at_once in [true, false] {
            for _ in 0..3 {
                ask(&watch, Err(StoreErrorKind::Full), at_once);
                ask(&watch, Ok(7), at_once);
            }
        }
        let heard = ears.0.lock().unwrap();
        assert_eq!(*heard, ["portcullis.audit.store_rejected"]);
    }

    #[test]
    fn record_contains_pending_and_failed_calls() {
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
    fn canceled_call_does_not_change_availability() {
        let ears = Ears::default();
        let watch = StoreWatch::new("cache", Audit::to(ears.clone()));
        drop(watch.over(StoreFuture::<u8>::pending(pending()), || None));
        assert!(ears.0.lock().unwrap().is_empty());
    }
}
