//! The tasks that store batches of entries.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Duration,
};

use super::lane::{Down, Lane, UnderWay};
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
        time::Clock,
    },
};

/// The longest that a store which is down is left alone.
const PAUSE_MAX: Duration = Duration::from_secs(10);

pub(super) struct LogQueueInner {
    pub(super) access: Lane,
    pub(super) audit: Lane,
    /// Whether audit events tell of the records' store: they do where they have another one.
    pub(super) watches: bool,
    pub(super) observers: Vec<Arc<dyn Observer>>,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) names: FieldNaming,
    pub(super) max_batch: usize,
    pub(super) flush_interval: Duration,
    pub(super) deadline: Duration,
}

/// Says that a task is at work, until it ends, is dropped or panics: then the next entry starts
/// another.
struct AtWork {
    shared: Arc<LogQueueInner>,
    trail: LogStream,
    ended: bool,
}

impl AtWork {
    /// Stores what waits until nothing does. After a failure it pauses, longer each time.
    async fn run(mut self) {
        let mut pause = None;
        while !self.has_ended() {
            let lane = self.shared.lane(self.trail);
            self.shared.flush_interval(lane, pause).await;
            let last = pause.unwrap_or(self.shared.flush_interval);
            pause = match self.shared.deliver(lane).await {
                Ok(()) => None,
                Err(Down) => Some((last * 2).min(PAUSE_MAX)),
            };
        }
    }

    /// Ends the work if nothing waits: in one step, so that no entry is left without a task.
    fn has_ended(&mut self) -> bool {
        let mut state = self.shared.lane(self.trail).state();
        if state.backlog.waiting() == 0 {
            state.at_work = false;
            self.ended = true;
        }
        self.ended
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        if !self.ended {
            self.shared.lane(self.trail).state().at_work = false;
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
        // Notices are audit events that come from any thread, such as that of a writer: outside of the
        // runtime they wait for the next event or for a flush.
        let can_start = match trail {
            LogStream::Access => true,
            LogStream::Audit => shared.runtime.can_spawn(),
        };
        let starts = can_start && !state.at_work;
        state.at_work |= starts;
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        if starts {
            let work = AtWork {
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

    /// Waits until a batch is full or the oldest entry has waited long enough; after a failure,
    /// until the pause is over.
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

    /// Stores what waits, and tells the store of losses.
    pub(super) async fn deliver(self: &Arc<Self>, lane: &Lane) -> Result<(), Down> {
        while let Some(batch) = UnderWay::take(lane, self.max_batch) {
            let answer = self.append(lane, batch.entries()).await;
            self.note(lane, &answer);
            batch.end(answer)?;
        }
        self.tell_losses(lane).await
    }

    /// Appends to the lane's store, but does not wait for its answer for ever.
    pub(super) async fn append(&self, lane: &Lane, entries: &[LogEntry]) -> Result<(), StoreError> {
        let mut pending = match lane.store.append(lane.trail, entries).into_ready() {
            Ok(answer) => {
                self.observe(lane, None, &answer);
                return answer;
            }
            Err(pending) => pending,
        };
        let asked_at = self.clock.now();
        let mut sleep = self.runtime.sleep(self.deadline);
        let answer = poll_fn(|cx| match pending.as_mut().poll(cx) {
            Poll::Ready(answer) => Poll::Ready(answer),
            Poll::Pending => sleep
                .as_mut()
                .poll(cx)
                .map(|()| Err(StoreErrorKind::Timeout.into())),
        })
        .await;
        self.observe(lane, Some(self.clock.now() - asked_at), &answer);
        answer
    }

    /// Tells the observers how a store answered, and after how long if that was waited for.
    fn observe(&self, lane: &Lane, waited: Option<Duration>, answer: &Result<(), StoreError>) {
        let layer = match lane.trail {
            LogStream::Access => "access_log",
            LogStream::Audit => "audit",
        };
        let call = StoreCall::new(layer, waited, answer.as_ref().err().map(StoreError::kind));
        self.each_observer(|observer| observer.on_store_call(&call));
    }

    /// Tells each observer. One that panics costs nothing else.
    pub(super) fn each_observer(&self, tell: impl Fn(&dyn Observer)) {
        for observer in &self.observers {
            let _ = catch_unwind(AssertUnwindSafe(|| tell(&**observer)));
        }
    }

    /// Makes an audit event of it when the records' store stops answering, and when it answers again.
    fn note(self: &Arc<Self>, lane: &Lane, answer: &Result<(), StoreError>) {
        if !self.watches || lane.trail != LogStream::Access {
            return;
        }
        let store = Arc::from("access_log");
        let was_down = lane.is_down.swap(answer.is_err(), Ordering::Relaxed);
        let event = match answer {
            Ok(()) if was_down => AuditEvent::StoreUp { store },
            Err(error) if !was_down => AuditEvent::StoreDown {
                store,
                kind: error.kind(),
            },
            Ok(()) | Err(_) => return,
        };
        Self::offer(self, LogStream::Audit, Weight::Audit, self.audited(&event));
    }

    /// Stores how many entries were lost since that was last told.
    async fn tell_losses(&self, lane: &Lane) -> Result<(), Down> {
        let (drop_counts, told) = {
            let state = lane.state();
            (state.backlog.drop_counts(), state.told)
        };
        let news = drop_counts - told;
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
                lane.state().told = drop_counts;
                Ok(())
            }
            Err(_) => Err(Down),
        }
    }
}
