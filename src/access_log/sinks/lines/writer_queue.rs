//! Lines that wait for the thread of a writer, and the thread.

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

/// How many bytes of lines wait for the writer at most, unless it is told otherwise.
const MAX_BYTES: usize = 4 << 20;

/// How long the thread leaves lines to gather after it has written.
const LINGER: Duration = Duration::from_millis(10);

/// So many bytes that wait end the gathering.
const BATCH_BYTES: usize = 256 << 10;

/// A buffer that has grown beyond this is given back.
const KEPT_BYTES_MAX: usize = 512 << 10;

/// How long the last lines have when nobody is left to write any.
const FAREWELL: Duration = Duration::from_secs(1);

/// Lines that wait for the thread.
pub(super) struct WriterQueue {
    state: Mutex<WriterState>,
    /// Wakes the thread.
    to_write: Condvar,
    /// Wakes those who wait until all is written.
    written: Condvar,
}

pub(super) struct WriterState {
    /// The writer, until the thread has it.
    pub(super) writer: Option<Box<dyn Write + Send>>,
    /// Whole lines.
    pub(super) waiting: Vec<u8>,
    /// The number of bytes that the writer has been given and not taken yet: they count as waiting.
    pub(super) under_way_bytes: usize,
    pub(super) max_bytes: usize,
    /// When the latest line was made.
    pub(super) latest: Timestamp,
    pub(super) drop_counts: DropCounts,
    /// Losses that a line tells of.
    pub(super) told: DropCounts,
    thread: WriterThread,
    /// Nobody is left to write lines, or somebody waits for what there is.
    pub(super) hurry: bool,
    pub(super) closed: bool,
}

/// What the thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriterThread {
    NotStarted,
    Working,
    /// Lets lines gather.
    Lingering,
    /// Waits for a line.
    Parked,
}

/// What is to be done once a line has been taken in.
pub(super) enum PushOutcome {
    StartThread,
    Nothing,
}

impl Default for WriterState {
    fn default() -> Self {
        Self {
            writer: None,
            waiting: Vec::new(),
            under_way_bytes: 0,
            max_bytes: MAX_BYTES,
            latest: Timestamp::EPOCH,
            drop_counts: DropCounts::default(),
            told: DropCounts::default(),
            thread: WriterThread::NotStarted,
            hurry: false,
            closed: false,
        }
    }
}

impl WriterState {
    fn room(&self, weight: Weight) -> usize {
        let eighths = match weight {
            Weight::Routine => 6,
            Weight::Important => 7,
            Weight::Audit => 8,
        };
        self.max_bytes / 8 * eighths
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.under_way_bytes == 0
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
        // Nothing panics while the lock is held, but for want of memory.
        lock(&self.state)
    }

    pub(super) fn push(&self, weight: Weight, line: &[u8], at: Timestamp) -> PushOutcome {
        let mut state = self.state();
        let waiting = state.waiting.len() + state.under_way_bytes;
        if waiting + line.len() > state.room(weight) {
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
            // The next line need not wake it again.
            state.thread = WriterThread::Working;
            drop(state);
            self.to_write.notify_one();
        }
        next
    }

    /// Starts the thread. Where none can be had, the lines wait, and the next one tries again.
    pub(super) fn start(self: &Arc<Self>, target: &Arc<LogTarget>, words: &Arc<dyn Words>) {
        let mut state = self.state();
        let Some(writer) = state.writer.take() else {
            return;
        };
        state.thread = WriterThread::Working;
        drop(state);
        // Should there be no thread, the writer must not be gone with the work: it waits here.
        let place = Arc::new(Mutex::new(Some(writer)));
        let (queue, target, words) = (Arc::clone(self), Arc::clone(target), Arc::clone(words));
        let taken = Arc::clone(&place);
        let work = move || {
            if let Some(writer) = lock(&taken).take() {
                queue.work(writer, &target, &*words);
            }
        };
        if runtime::spawn_thread("portcullis-log", work).is_err() {
            let writer = lock(&place).take();
            let mut state = self.state();
            state.writer = writer;
            state.thread = WriterThread::NotStarted;
        }
    }

    /// What the thread does: writes what waits until nobody is left who makes lines.
    fn work(&self, writer: Box<dyn Write + Send>, target: &LogTarget, words: &dyn Words) {
        let mut pen = Pen {
            writer,
            torn: false,
            failure: None,
        };
        let mut batch = Vec::new();
        while let Some(untold) = self.next(&mut batch) {
            self.tell(untold, &mut pen, words);
            let lost = pen.write(&batch);
            // A task that waits for the lines finds the notice of their loss emitted.
            target.note(pen.failure.take().as_ref().map_or(Ok(()), Err));
            self.has_written(lost);
            batch.clear();
            batch.shrink_to(KEPT_BYTES_MAX);
            self.flush_interval();
        }
    }

    /// Waits for lines, and takes them over. Returns what was lost and not told yet, or nothing when
    /// all is over.
    fn next(&self, batch: &mut Vec<u8>) -> Option<DropCounts> {
        let mut state = self.state();
        while state.waiting.is_empty() && !state.closed {
            state.thread = WriterThread::Parked;
            state = wait(&self.to_write, state);
        }
        state.thread = WriterThread::Working;
        let untold = state.drop_counts - state.told;
        if state.waiting.is_empty() {
            // The last words, if there are any, and they are said once.
            state.told = state.drop_counts;
            return (untold.total() > 0).then_some(untold);
        }
        mem::swap(batch, &mut state.waiting);
        state.under_way_bytes = batch.len();
        Some(untold)
    }

    /// Writes how many lines were lost. If that is lost too, it is told with later losses.
    fn tell(&self, untold: DropCounts, pen: &mut Pen, words: &dyn Words) {
        if untold.total() == 0 {
            return;
        }
        let latest = self.state().latest;
        let news = untold.each().filter(|(_, lost)| *lost > 0);
        let lines: Vec<u8> = news
            .flat_map(|(reason, lost)| words.loss(latest, reason, lost))
            .collect();
        if pen.write(&lines) == 0 {
            let mut state = self.state();
            state.told = state.told + untold;
        }
    }

    fn has_written(&self, lost: u64) {
        let mut state = self.state();
        state.under_way_bytes = 0;
        state.drop_counts.writer_failed += lost;
        drop(state);
        self.written.notify_all();
    }

    /// Lets lines gather, so that a busy thread is not woken for each.
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
        // Where no thread could be had there is none to wait for.
        let started = state.thread != WriterThread::NotStarted;
        drop(state);
        self.to_write.notify_all();
        if started {
            self.flush(FAREWELL);
        }
    }
}

fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
