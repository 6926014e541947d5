//! The queue of one stream of entries.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
    task::{Context, Poll, Waker},
};

use crate::{
    access_log::{
        emit::drop_counts::DropCounts,
        sinks::backlog::{Backlog, BacklogBounds},
        store::{LogEntry, LogStore, LogStream},
    },
    core::error::StoreError,
};

/// The queue of one stream, and its store.
pub(super) struct Lane {
    pub(super) trail: LogStream,
    pub(super) store: Arc<dyn LogStore>,
    pub(super) is_down: AtomicBool,
    pub(super) state: Mutex<LaneState>,
}

pub(super) struct LaneState {
    pub(super) backlog: Backlog,
    /// The losses that an entry in the store has already reported.
    pub(super) reported: DropCounts,
    /// `true` if a delivery task is running or about to start.
    pub(super) is_delivering: bool,
    /// The waker of the task that waits for a full batch.
    pub(super) waker: Option<Waker>,
    /// The number of batches that are being stored.
    pub(super) in_flight: usize,
    /// The wakers of tasks that wait until no batch is being stored.
    pub(super) flushing: Vec<Waker>,
}

/// The store did not accept a batch: pause before the next attempt.
pub(super) struct Down;

impl Lane {
    pub(super) fn new(trail: LogStream, store: Arc<dyn LogStore>, bounds: BacklogBounds) -> Self {
        Self {
            trail,
            store,
            is_down: AtomicBool::new(false),
            state: Mutex::new(LaneState {
                backlog: Backlog::new(bounds),
                reported: DropCounts::default(),
                is_delivering: false,
                waker: None,
                in_flight: 0,
                flushing: Vec::new(),
            }),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, LaneState> {
        // The lock is never held across code that panics, except on allocation failure.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn waiting(&self) -> usize {
        self.state().backlog.waiting()
    }

    /// Waits until no batch is being stored.
    pub(super) fn poll_idle(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.in_flight == 0 {
            return Poll::Ready(());
        }
        if !state
            .flushing
            .iter()
            .any(|waker| waker.will_wake(cx.waker()))
        {
            state.flushing.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// A batch that is being stored. If the result is never known, the batch is lost: it is not sent
/// twice.
pub(super) struct InFlightBatch<'a> {
    lane: &'a Lane,
    batch: Option<Vec<LogEntry>>,
}

impl<'a> InFlightBatch<'a> {
    pub(super) fn take(lane: &'a Lane, max_batch: usize) -> Option<Self> {
        let mut state = lane.state();
        let batch = Some(state.backlog.take(max_batch)?);
        state.in_flight += 1;
        Some(Self { lane, batch })
    }

    pub(super) fn entries(&self) -> &[LogEntry] {
        self.batch.as_ref().expect("a batch ends once")
    }

    pub(super) fn end(mut self, result: Result<(), StoreError>) -> Result<(), Down> {
        let batch = self.batch.take().expect("a batch ends once");
        let backlog = &mut self.lane.state().backlog;
        match result.map_err(|error| error.kind()) {
            Ok(()) => {
                backlog.stored(&batch);
                return Ok(());
            }
            // Nothing was stored: the batch can be retried.
            Err(kind) if kind.is_undone() => backlog.put_back(batch),
            Err(_) => backlog.lost(&batch),
        }
        Err(Down)
    }
}

impl Drop for InFlightBatch<'_> {
    fn drop(&mut self) {
        let mut state = self.lane.state();
        if let Some(batch) = self.batch.take() {
            state.backlog.lost(&batch);
        }
        state.in_flight -= 1;
        if state.in_flight == 0 {
            let flushing = mem::take(&mut state.flushing);
            drop(state);
            flushing.into_iter().for_each(Waker::wake);
        }
    }
}
