//! The entries of one trail on their way to its store.

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

/// The way of one trail's entries.
pub(super) struct Lane {
    pub(super) trail: LogStream,
    pub(super) store: Arc<dyn LogStore>,
    pub(super) is_down: AtomicBool,
    pub(super) state: Mutex<LaneState>,
}

pub(super) struct LaneState {
    pub(super) backlog: Backlog,
    /// Losses that an entry in the store tells of.
    pub(super) told: DropCounts,
    /// Whether a task is at work, or about to be.
    pub(super) at_work: bool,
    /// Who is to be woken when a batch is full.
    pub(super) waker: Option<Waker>,
    /// The number of batches that are on their way to the store.
    pub(super) under_way: usize,
    /// Who is to be woken when none is.
    pub(super) flushing: Vec<Waker>,
}

/// The store did not take a batch: to be left alone for a while.
pub(super) struct Down;

impl Lane {
    pub(super) fn new(trail: LogStream, store: Arc<dyn LogStore>, bounds: BacklogBounds) -> Self {
        Self {
            trail,
            store,
            is_down: AtomicBool::new(false),
            state: Mutex::new(LaneState {
                backlog: Backlog::new(bounds),
                told: DropCounts::default(),
                at_work: false,
                waker: None,
                under_way: 0,
                flushing: Vec::new(),
            }),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, LaneState> {
        // Nothing panics while the lock is held, but for want of memory.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn waiting(&self) -> usize {
        self.state().backlog.waiting()
    }

    /// Waits until no batch is on its way to the store.
    pub(super) fn poll_idle(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.under_way == 0 {
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

/// A batch that is being stored. One whose fate is never learned is lost: it is not sent twice.
pub(super) struct UnderWay<'a> {
    lane: &'a Lane,
    batch: Option<Vec<LogEntry>>,
}

impl<'a> UnderWay<'a> {
    pub(super) fn take(lane: &'a Lane, max_batch: usize) -> Option<Self> {
        let mut state = lane.state();
        let batch = Some(state.backlog.take(max_batch)?);
        state.under_way += 1;
        Some(Self { lane, batch })
    }

    pub(super) fn entries(&self) -> &[LogEntry] {
        self.batch.as_ref().expect("a batch ends once")
    }

    pub(super) fn end(mut self, answer: Result<(), StoreError>) -> Result<(), Down> {
        let batch = self.batch.take().expect("a batch ends once");
        let backlog = &mut self.lane.state().backlog;
        match answer.map_err(|error| error.kind()) {
            Ok(()) => {
                backlog.stored(&batch);
                return Ok(());
            }
            // Nothing was done: the batch may be tried again.
            Err(kind) if kind.is_undone() => backlog.put_back(batch),
            Err(_) => backlog.lost(&batch),
        }
        Err(Down)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut state = self.lane.state();
        if let Some(batch) = self.batch.take() {
            state.backlog.lost(&batch);
        }
        state.under_way -= 1;
        if state.under_way == 0 {
            let flushing = mem::take(&mut state.flushing);
            drop(state);
            flushing.into_iter().for_each(Waker::wake);
        }
    }
}
