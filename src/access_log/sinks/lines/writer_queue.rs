//! The queue and the thread of a line writer.

use std::{
    io::Write,
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{line_format::Words, pen::Pen};
use crate::{
    access_log::{
        emit::{drop_counts::DropCounts, weight::Weight},
        sinks::target::LogTarget,
    },
    core::{runtime, time::Timestamp},
};

/// The default maximum number of queued bytes.
const MAX_BYTES: usize = 4 << 20;

/// The time that the thread lets lines accumulate after a write.
const LINGER: Duration = Duration::from_millis(10);

/// The number of queued bytes that ends the accumulation early.
const BATCH_BYTES: usize = 256 << 10;

/// A buffer with a larger capacity is shrunk after the write.
const MAX_IDLE_BYTES: usize = 512 << 10;

/// The maximum time to write the remaining lines after the last handle is dropped.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The lines that wait for the thread.
pub(super) struct WriterQueue {
    state: Mutex<WriterState>,
    /// Wakes the thread.
    to_write: Condvar,
    /// Wakes callers that wait until all lines are written.
    written: Condvar,
}

pub(super) struct WriterState {
    /// The writer, until the thread takes it.
    pub(super) writer: Option<Box<dyn Write + Send>>,
    /// Whole lines.
    pub(super) waiting: Vec<u8>,
    /// The number of bytes that are being written. They count as queued.
    pub(super) in_flight_bytes: usize,
    pub(super) max_bytes: usize,
    /// The time of the latest line.
    pub(super) latest: Timestamp,
    pub(super) drop_counts: DropCounts,
    /// The losses that a line has already reported.
    pub(super) reported: DropCounts,
    thread: WriterThread,
    /// `true` if the output is closed or a caller waits in `flush`.
    pub(super) hurry: bool,
    pub(super) closed: bool,
}

/// The state of the thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriterThread {
    NotStarted,
    Working,
    /// Lets lines accumulate.
    Lingering,
    /// Waits for a line.
    Parked,
}

/// The action to take after a line is pushed.
pub(super) enum PushOutcome {
    StartThread,
    Nothing,
}

impl Default for WriterState {
    fn default() -> Self {
        Self {
            writer: None,
            waiting: Vec::new(),
            in_flight_bytes: 0,
            max_bytes: MAX_BYTES,
            latest: Timestamp::EPOCH,
            drop_counts: DropCounts::default(),
            reported: DropCounts::default(),
            thread: WriterThread::NotStarted,
            hurry: false,
            closed: false,
        }
    }
}

impl WriterState {
    fn capacity(&self, weight: Weight) -> usize {
        let eighths = match weight {
            Weight::Routine => 6,
            Weight::Important => 7,
            Weight::Audit => 8,
        };
        self.max_bytes / 8 * eighths
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.in_flight_bytes == 0
    }
}

impl WriterQueue {
    pub(super) fn new(writer: Box<dyn Write + Send>) -> Self {
        Self {
            state: Mutex::new(WriterState {
                writer: Some(writer),
                ..WriterState::default()
            }),
            to_write: Condvar::new(),
            written: Condvar::new(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, WriterState> {
        // The lock is never held across code that panics, except on allocation failure.
        lock(&self.state)
    }

    pub(super) fn push(&self, weight: Weight, line: &[u8], at: Timestamp) -> PushOutcome {
        let mut state = self.state();
        let waiting = state.waiting.len() + state.in_flight_bytes;
        if waiting + line.len() > state.capacity(weight) {
            state.drop_counts.queue_full += 1;
            return PushOutcome::Nothing;
        }
        state.waiting.extend_from_slice(line);
        state.latest = at;
        let (next, wake) = match state.thread {
            WriterThread::NotStarted if state.writer.is_some() => (PushOutcome::StartThread, false),
            WriterThread::NotStarted | WriterThread::Working => (PushOutcome::Nothing, false),
            WriterThread::Lingering => (PushOutcome::Nothing, state.waiting.len() >= BATCH_BYTES),
            WriterThread::Parked => (PushOutcome::Nothing, true),
        };
        if wake {
            // The next line does not need to wake it again.
            state.thread = WriterThread::Working;
            drop(state);
            self.to_write.notify_one();
        }
        next
    }

    /// Starts the thread. If that fails, the lines wait and the next line retries.
    pub(super) fn start(self: &Arc<Self>, target: &Arc<LogTarget>, words: &Arc<dyn Words>) {
        let mut state = self.state();
        let Some(writer) = state.writer.take() else {
            return;
        };
        state.thread = WriterThread::Working;
        drop(state);
        // The writer stays here, so that it is not lost with the closure if the thread cannot
        // start.
        let slot = Arc::new(Mutex::new(Some(writer)));
        let (queue, target, words) = (Arc::clone(self), Arc::clone(target), Arc::clone(words));
        let taken = Arc::clone(&slot);
        let work = move || {
            if let Some(writer) = lock(&taken).take() {
                queue.work(writer, &target, &*words);
            }
        };
        if runtime::spawn_thread("portcullis-log", work).is_err() {
            let writer = lock(&slot).take();
            let mut state = self.state();
            state.writer = writer;
            state.thread = WriterThread::NotStarted;
        }
    }

    /// Runs on the thread: writes lines until the queue is closed and empty.
    fn work(&self, writer: Box<dyn Write + Send>, target: &LogTarget, words: &dyn Words) {
        let mut pen = Pen {
            writer,
            torn: false,
            failure: None,
        };
        let mut batch = Vec::new();
        while let Some(unreported) = self.next(&mut batch) {
            self.report(unreported, &mut pen, words);
            let lost = pen.write(&batch);
            // The notice of a loss is emitted before callers of `flush` are woken.
            target.note(pen.failure.take().as_ref().map_or(Ok(()), Err));
            self.has_written(lost);
            batch.clear();
            batch.shrink_to(MAX_IDLE_BYTES);
            self.flush_interval();
        }
    }

    /// Waits for lines and moves them into `batch`. Returns the unreported losses, or `None` at the
    /// end.
    fn next(&self, batch: &mut Vec<u8>) -> Option<DropCounts> {
        let mut state = self.state();
        while state.waiting.is_empty() && !state.closed {
            state.thread = WriterThread::Parked;
            state = wait(&self.to_write, state);
        }
        state.thread = WriterThread::Working;
        let unreported = state.drop_counts - state.reported;
        if state.waiting.is_empty() {
            // The final losses are reported once.
            state.reported = state.drop_counts;
            return (unreported.total() > 0).then_some(unreported);
        }
        mem::swap(batch, &mut state.waiting);
        state.in_flight_bytes = batch.len();
        Some(unreported)
    }

    /// Writes the number of lost lines. If that line is lost too, later losses include it.
    fn report(&self, unreported: DropCounts, pen: &mut Pen, words: &dyn Words) {
        if unreported.total() == 0 {
            return;
        }
        let latest = self.state().latest;
        let news = unreported.each().filter(|(_, lost)| *lost > 0);
        let lines: Vec<u8> = news
            .flat_map(|(reason, lost)| words.loss(latest, reason, lost))
            .collect();
        if pen.write(&lines) == 0 {
            let mut state = self.state();
            state.reported = state.reported + unreported;
        }
    }

    fn has_written(&self, lost: u64) {
        let mut state = self.state();
        state.in_flight_bytes = 0;
        state.drop_counts.writer_failed += lost;
        drop(state);
        self.written.notify_all();
    }

    /// Lets lines accumulate, so that a busy thread is not woken for each line.
    fn flush_interval(&self) {
        let mut state = self.state();
        state.thread = WriterThread::Lingering;
        let gathering = |state: &mut WriterState| {
            !state.hurry
                && state.thread == WriterThread::Lingering
                && state.waiting.len() < BATCH_BYTES
        };
        let waited = self.to_write.wait_timeout_while(state, LINGER, gathering);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.thread = WriterThread::Working;
    }

    pub(super) fn flush(&self, at_most: Duration) -> bool {
        let mut state = self.state();
        state.hurry = true;
        self.to_write.notify_all();
        let waited = self
            .written
            .wait_timeout_while(state, at_most, |state| !state.is_idle());
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.hurry = state.closed;
        state.is_idle()
    }

    pub(super) fn close(&self) {
        let mut state = self.state();
        (state.closed, state.hurry) = (true, true);
        // Without a thread there is nothing to wait for.
        let started = state.thread != WriterThread::NotStarted;
        drop(state);
        self.to_write.notify_all();
        if started {
            self.flush(CLOSE_TIMEOUT);
        }
    }
}

fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
