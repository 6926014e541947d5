//! The tasks that store batches of entries.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Duration,
};

use super::lane::{Down, InFlightBatch, Lane};
use crate::{
    access_log::{
        emit::{observer::Observer, weight::Weight},
        record::schema::FieldNaming,
        sinks::json::event,
        store::{LogEntry, LogStream},
    },
    core::{
        audit::AuditEvent,
        error::{StoreError, StoreErrorKind},
        record::StoreCall,
        runtime::Runtime,
        store_api::store_future::ReadyOrPending,
        time::Clock,
    },
};

/// The maximum pause between attempts while the store is unavailable.
const MAX_PAUSE: Duration = Duration::from_secs(10);

pub(super) struct LogQueueInner {
    pub(super) access: Lane,
    pub(super) audit: Lane,
    /// `true` if audit events have a separate store and therefore report outages of the record
    /// store.
    pub(super) watches: bool,
    pub(super) observers: Vec<Arc<dyn Observer>>,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) names: FieldNaming,
    pub(super) max_batch: usize,
    pub(super) flush_interval: Duration,
    pub(super) store_timeout: Duration,
}

/// The running delivery task of a stream. When it ends, is dropped or panics, the next entry starts
/// another one.
struct DeliveryTask {
    shared: Arc<LogQueueInner>,
    trail: LogStream,
    ended: bool,
}

impl DeliveryTask {
    /// Stores waiting entries until none is left. After each failure, the task pauses, for twice as
    /// long each time.
    async fn run(mut self) {
        let mut pause = None;
        while !self.has_ended() {
            let lane = self.shared.lane(self.trail);
            self.shared.flush_interval(lane, pause).await;
            let last = pause.unwrap_or(self.shared.flush_interval);
            pause = match self.shared.deliver(lane).await {
                Ok(()) => None,
                Err(Down) => Some((last * 2).min(MAX_PAUSE)),
            };
        }
    }

    /// Ends the task if no entry waits. Atomic, so that no entry is left without a task.
    fn has_ended(&mut self) -> bool {
        let mut state = self.shared.lane(self.trail).state();
        if state.backlog.waiting() == 0 {
            state.is_delivering = false;
            self.ended = true;
        }
        self.ended
    }
}

impl Drop for DeliveryTask {
    fn drop(&mut self) {
        if !self.ended {
            self.shared.lane(self.trail).state().is_delivering = false;
        }
    }
}

impl LogQueueInner {
    pub(super) fn lane(&self, trail: LogStream) -> &Lane {
        match trail {
            LogStream::Access => &self.access,
            LogStream::Audit => &self.audit,
        }
    }

    pub(super) fn offer(shared: &Arc<Self>, trail: LogStream, weight: Weight, entry: LogEntry) {
        let mut state = shared.lane(trail).state();
        state.backlog.offer(weight, entry);
        let due = state.backlog.waiting() >= shared.max_batch;
        let waker = if due { state.waker.take() } else { None };
        // Notices are audit events that any thread can emit, such as the notice of a failed writer.
        // Outside the runtime, they wait for the next event or a flush.
        let can_start = match trail {
            LogStream::Access => true,
            LogStream::Audit => shared.runtime.can_spawn(),
        };
        let starts = can_start && !state.is_delivering;
        state.is_delivering |= starts;
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        if starts {
            let work = DeliveryTask {
                shared: Arc::clone(shared),
                trail,
                ended: false,
            };
            shared.runtime.spawn(Box::pin(work.run()));
        }
    }

    pub(super) fn audited(&self, event: &AuditEvent) -> LogEntry {
        let at = self.clock.wall();
        LogEntry::new(at, event::audit(self.names, at, event))
    }

    /// Waits until a batch is full or the flush interval is over. After a failure, waits until the
    /// pause is over.
    async fn flush_interval(&self, lane: &Lane, pause: Option<Duration>) {
        let mut sleep = self.runtime.sleep(pause.unwrap_or(self.flush_interval));
        poll_fn(|cx| {
            if pause.is_none() {
                let mut state = lane.state();
                if state.backlog.waiting() >= self.max_batch {
                    return Poll::Ready(());
                }
                state.waker = Some(cx.waker().clone());
            }
            sleep.as_mut().poll(cx)
        })
        .await;
    }

    /// Stores all waiting entries, and then the number of new losses.
    pub(super) async fn deliver(self: &Arc<Self>, lane: &Lane) -> Result<(), Down> {
        while let Some(batch) = InFlightBatch::take(lane, self.max_batch) {
            let result = self.append(lane, batch.entries()).await;
            self.note(lane, &result);
            batch.end(result)?;
        }
        self.store_losses(lane).await
    }

    /// Appends to the lane's store, with the store timeout.
    pub(super) async fn append(&self, lane: &Lane, entries: &[LogEntry]) -> Result<(), StoreError> {
        let mut pending = match lane.store.append(lane.trail, entries).into_ready() {
            ReadyOrPending::Ready(result) => {
                self.observe(lane, None, &result);
                return result;
            }
            ReadyOrPending::Pending(pending) => pending,
        };
        let called_at = self.clock.now();
        let mut sleep = self.runtime.sleep(self.store_timeout);
        let result = poll_fn(|cx| match pending.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => sleep
                .as_mut()
                .poll(cx)
                .map(|()| Err(StoreErrorKind::Timeout.into())),
        })
        .await;
        self.observe(lane, Some(self.clock.now() - called_at), &result);
        result
    }

    /// Reports the result of a store call to the observers, with its duration if it was pending.
    fn observe(&self, lane: &Lane, waited: Option<Duration>, result: &Result<(), StoreError>) {
        let layer = match lane.trail {
            LogStream::Access => "access_log",
            LogStream::Audit => "audit",
        };
        let call = StoreCall::new(layer, waited, result.as_ref().err().map(StoreError::kind));
        self.each_observer(|observer| observer.on_store_call(&call));
    }

    /// Calls each observer. A panic in one observer does not affect the other observers.
    pub(super) fn each_observer(&self, call: impl Fn(&dyn Observer)) {
        for observer in &self.observers {
            let _ = catch_unwind(AssertUnwindSafe(|| call(&**observer)));
        }
    }

    /// Emits an audit event when the record store becomes unavailable and when it recovers.
    fn note(self: &Arc<Self>, lane: &Lane, result: &Result<(), StoreError>) {
        if !self.watches || lane.trail != LogStream::Access {
            return;
        }
        let store = Arc::from("access_log");
        let was_down = lane.is_down.swap(result.is_err(), Ordering::Relaxed);
        let event = match result {
            Ok(()) if was_down => AuditEvent::StoreUp { store },
            Err(error) if !was_down => AuditEvent::StoreDown {
                store,
                kind: error.kind(),
            },
            Ok(()) | Err(_) => return,
        };
        Self::offer(self, LogStream::Audit, Weight::Audit, self.audited(&event));
    }

    /// Stores the number of entries that were lost since the last report.
    async fn store_losses(&self, lane: &Lane) -> Result<(), Down> {
        let (drop_counts, reported) = {
            let state = lane.state();
            (state.backlog.drop_counts(), state.reported)
        };
        let news = drop_counts - reported;
        let at = self.clock.wall();
        let entries: Vec<_> = news
            .each()
            .filter(|(_, lost)| *lost > 0)
            .map(|(reason, lost)| LogEntry::new(at, event::loss(self.names, at, reason, lost)))
            .collect();
        if entries.is_empty() {
            return Ok(());
        }
        match self.append(lane, &entries).await {
            Ok(()) => {
                lane.state().reported = drop_counts;
                Ok(())
            }
            Err(_) => Err(Down),
        }
    }
}
