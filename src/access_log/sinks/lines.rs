//! Lines on their way to a writer: by whoever makes them, or by a thread of the writer's own.

use std::{
    fmt,
    io::{self, ErrorKind, Write},
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::target::Target;
use crate::{
    access_log::emit::{losses::Losses, weight::Weight},
    core::{
        notice::{self, Route},
        runtime,
        time::Timestamp,
    },
};

/// How many bytes of lines wait for the writer at most, unless it is told otherwise.
const BYTES_MAX: usize = 4 << 20;

/// How long the thread leaves lines to gather after it has written.
const LINGER: Duration = Duration::from_millis(10);

/// So many bytes that wait end the gathering.
const BATCH_BYTES: usize = 256 << 10;

/// The writer gets at most so many bytes by one call, and whole lines alone: what POSIX writes to a
/// pipe in one piece, whoever else writes to it.
const CHUNK_BYTES_MAX: usize = 4 << 10;

/// A buffer that has grown beyond this is given back.
const KEPT_BYTES_MAX: usize = 512 << 10;

/// How long the last lines have when nobody is left to write any.
const FAREWELL: Duration = Duration::from_secs(1);

/// Writes lines that are no records in the format of the records, each with its line feed.
pub(super) trait Words: Send + Sync {
    /// Returns the line that counts lost records.
    fn loss(&self, at: Timestamp, reason: &'static str, lost: u64) -> Vec<u8>;

    /// Returns the line of a notice, and its time.
    fn notice(&self, message: &str) -> (Timestamp, Vec<u8>);
}

/// Where finished lines go.
pub(crate) struct Lines {
    way: Way,
    target: Arc<Target>,
    /// Read when something was lost, with each notice, and when the thread starts.
    words: Mutex<Arc<dyn Words>>,
}

enum Way {
    /// To the writer, on the thread that made the line.
    Direct {
        writer: Mutex<Box<dyn Write + Send>>,
        lost: AtomicU64,
        told: AtomicU64,
    },
    /// To a queue that a thread of its own empties into the writer.
    Queued(Arc<Queue>),
}

impl Lines {
    /// Calls the writer on the thread that makes the line.
    pub(super) fn direct(
        writer: impl Write + Send + 'static,
        words: impl Words + 'static,
    ) -> Arc<Self> {
        let target = Target::of(&writer);
        let way = Way::Direct {
            writer: Mutex::new(Box::new(writer)),
            lost: AtomicU64::new(0),
            told: AtomicU64::new(0),
        };
        Self::new(way, target, words)
    }

    /// Calls the writer on a thread of its own, which starts with the first line.
    pub(super) fn queued(
        writer: impl Write + Send + 'static,
        words: impl Words + 'static,
    ) -> Arc<Self> {
        let target = Target::of(&writer);
        let queue = Queue {
            state: Mutex::new(State {
                writer: Some(Box::new(writer)),
                ..State::default()
            }),
            to_write: Condvar::new(),
            written: Condvar::new(),
        };
        Self::new(Way::Queued(Arc::new(queue)), target, words)
    }

    /// Notices are lines of those on a standard stream.
    fn new(way: Way, target: Target, words: impl Words + 'static) -> Arc<Self> {
        let stream = target.stream;
        let lines = Arc::new(Self {
            way,
            target: Arc::new(target),
            words: Mutex::new(Arc::new(words)),
        });
        if let Some(stream) = stream {
            let route: Weak<Self> = Arc::downgrade(&lines);
            notice::adopt(stream, route);
        }
        lines
    }

    /// Sets the format of lines that are no records, as long as no line was taken.
    pub(super) fn set_words(&self, words: impl Words + 'static) {
        *lock(&self.words) = Arc::new(words);
    }

    fn words(&self) -> Arc<dyn Words> {
        Arc::clone(&lock(&self.words))
    }

    /// Sets how many bytes may wait.
    pub(super) fn set_bytes_max(&self, bytes_max: usize) {
        match &self.way {
            Way::Direct { .. } => {}
            Way::Queued(queue) => queue.state().bytes_max = bytes_max,
        }
    }

    /// Takes one line, with its line feed, of this moment.
    pub(crate) fn take(&self, weight: Weight, line: &[u8], at: Timestamp) {
        match &self.way {
            Way::Direct { writer, lost, told } => {
                let written = self.write_now(writer, lost, told, line, at);
                if written.is_err() {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
                self.target.note(written.as_ref().copied());
            }
            Way::Queued(queue) => {
                if let Next::StartThread = queue.push(weight, line, at) {
                    queue.start(&self.target, &self.words());
                }
            }
        }
    }

    /// Returns how many lines were lost so far, and why.
    pub(crate) fn losses(&self) -> Losses {
        match &self.way {
            Way::Direct { lost, .. } => Losses {
                writer_failed: lost.load(Ordering::Relaxed),
                ..Losses::default()
            },
            Way::Queued(queue) => queue.state().losses,
        }
    }

    /// Waits until the writer has all lines, but not longer. Returns whether it has.
    pub(crate) fn flush(&self, at_most: Duration) -> bool {
        match &self.way {
            Way::Direct { .. } => true,
            Way::Queued(queue) => queue.flush(at_most),
        }
    }

    fn write_now(
        &self,
        writer: &Mutex<Box<dyn Write + Send>>,
        lost: &AtomicU64,
        told: &AtomicU64,
        line: &[u8],
        at: Timestamp,
    ) -> io::Result<()> {
        // A line is whole or it is an error: what a panicking writer left behind is its own affair.
        let mut writer = lock(writer);
        let news = lost.load(Ordering::Relaxed);
        let untold = news - told.load(Ordering::Relaxed);
        if untold > 0 {
            writer.write_all(&self.words().loss(at, "writer_failed", untold))?;
            told.store(news, Ordering::Relaxed);
        }
        writer.write_all(line)
    }
}

impl Route for Lines {
    fn take(&self, message: &str) -> bool {
        if self.target.is_failing() {
            return false;
        }
        let (at, line) = self.words().notice(message);
        Self::take(self, Weight::Audit, &line, at);
        true
    }
}

impl Drop for Lines {
    /// Gives the thread a moment to write what is left: nobody can wait for it after this.
    fn drop(&mut self) {
        match &self.way {
            Way::Direct { .. } => {}
            Way::Queued(queue) => queue.close(),
        }
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines")
            .field("losses", &self.losses())
            .finish_non_exhaustive()
    }
}

/// Lines that wait for the thread.
struct Queue {
    state: Mutex<State>,
    /// Wakes the thread.
    to_write: Condvar,
    /// Wakes those who wait until all is written.
    written: Condvar,
}

struct State {
    /// The writer, until the thread has it.
    writer: Option<Box<dyn Write + Send>>,
    /// Whole lines.
    waiting: Vec<u8>,
    /// How many bytes the writer has been given and not taken yet: they count as waiting.
    under_way_bytes: usize,
    bytes_max: usize,
    /// When the latest line was made.
    latest: Timestamp,
    losses: Losses,
    /// Losses that a line tells of.
    told: Losses,
    thread: Thread,
    /// Nobody is left to write lines, or somebody waits for what there is.
    hurry: bool,
    closed: bool,
}

/// What the thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thread {
    NotStarted,
    Working,
    /// Lets lines gather.
    Lingering,
    /// Waits for a line.
    Parked,
}

/// What is to be done once a line has been taken in.
enum Next {
    StartThread,
    Nothing,
}

impl Default for State {
    fn default() -> Self {
        Self {
            writer: None,
            waiting: Vec::new(),
            under_way_bytes: 0,
            bytes_max: BYTES_MAX,
            latest: Timestamp::EPOCH,
            losses: Losses::default(),
            told: Losses::default(),
            thread: Thread::NotStarted,
            hurry: false,
            closed: false,
        }
    }
}

impl State {
    fn room(&self, weight: Weight) -> usize {
        let eighths = match weight {
            Weight::Routine => 6,
            Weight::Important => 7,
            Weight::Audit => 8,
        };
        self.bytes_max / 8 * eighths
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.under_way_bytes == 0
    }
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held, but for want of memory.
        lock(&self.state)
    }

    fn push(&self, weight: Weight, line: &[u8], at: Timestamp) -> Next {
        let mut state = self.state();
        let waiting = state.waiting.len() + state.under_way_bytes;
        if waiting + line.len() > state.room(weight) {
            state.losses.queue_full += 1;
            return Next::Nothing;
        }
        state.waiting.extend_from_slice(line);
        state.latest = at;
        let (next, wake) = match state.thread {
            Thread::NotStarted if state.writer.is_some() => (Next::StartThread, false),
            Thread::NotStarted | Thread::Working => (Next::Nothing, false),
            Thread::Lingering => (Next::Nothing, state.waiting.len() >= BATCH_BYTES),
            Thread::Parked => (Next::Nothing, true),
        };
        if wake {
            // The next line need not wake it again.
            state.thread = Thread::Working;
            drop(state);
            self.to_write.notify_one();
        }
        next
    }

    /// Starts the thread. Where none can be had, the lines wait, and the next one tries again.
    fn start(self: &Arc<Self>, target: &Arc<Target>, words: &Arc<dyn Words>) {
        let mut state = self.state();
        let Some(writer) = state.writer.take() else {
            return;
        };
        state.thread = Thread::Working;
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
            state.thread = Thread::NotStarted;
        }
    }

    /// What the thread does: writes what waits until nobody is left who makes lines.
    fn work(&self, writer: Box<dyn Write + Send>, target: &Target, words: &dyn Words) {
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
            self.linger();
        }
    }

    /// Waits for lines, and takes them over. Returns what was lost and not told yet, or nothing when
    /// all is over.
    fn next(&self, batch: &mut Vec<u8>) -> Option<Losses> {
        let mut state = self.state();
        while state.waiting.is_empty() && !state.closed {
            state.thread = Thread::Parked;
            state = wait(&self.to_write, state);
        }
        state.thread = Thread::Working;
        let untold = state.losses - state.told;
        if state.waiting.is_empty() {
            // The last words, if there are any, and they are said once.
            state.told = state.losses;
            return (untold.total() > 0).then_some(untold);
        }
        mem::swap(batch, &mut state.waiting);
        state.under_way_bytes = batch.len();
        Some(untold)
    }

    /// Writes how many lines were lost. If that is lost too, it is told with later losses.
    fn tell(&self, untold: Losses, pen: &mut Pen, words: &dyn Words) {
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
        state.losses.writer_failed += lost;
        drop(state);
        self.written.notify_all();
    }

    /// Lets lines gather, so that a busy thread is not woken for each.
    fn linger(&self) {
        let mut state = self.state();
        state.thread = Thread::Lingering;
        let gathering = |state: &mut State| {
            !state.hurry && state.thread == Thread::Lingering && state.waiting.len() < BATCH_BYTES
        };
        let waited = self.to_write.wait_timeout_while(state, LINGER, gathering);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.thread = Thread::Working;
    }

    fn flush(&self, at_most: Duration) -> bool {
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

    fn close(&self) {
        let mut state = self.state();
        (state.closed, state.hurry) = (true, true);
        // Where no thread could be had there is none to wait for.
        let started = state.thread != Thread::NotStarted;
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A writer, and whether it was left amid a line.
struct Pen {
    writer: Box<dyn Write + Send>,
    torn: bool,
    /// The latest failure.
    failure: Option<io::Error>,
}

impl Pen {
    /// Writes whole lines, and returns how many of them were lost.
    fn write(&mut self, mut lines: &[u8]) -> u64 {
        let mut lost = 0;
        let all = lines;
        while !lines.is_empty() {
            let (chunk, rest) = lines.split_at(chunk_len(lines));
            lost += self.write_chunk(chunk);
            lines = rest;
        }
        // A writer that keeps lines back and cannot get rid of them has not written any.
        match self.guarded(|pen| pen.writer.flush()) {
            true => lost,
            false => count_lines(all),
        }
    }

    fn write_chunk(&mut self, chunk: &[u8]) -> u64 {
        let mut taken = 0;
        let is_written = self.guarded(|pen| {
            if pen.torn {
                write_all(&mut pen.writer, b"\n", &mut 0)?;
                pen.torn = false;
            }
            write_all(&mut pen.writer, chunk, &mut taken)
        });
        if is_written {
            return 0;
        }
        self.torn |= taken > 0 && chunk[taken - 1] != b'\n';
        count_lines(&chunk[taken..])
    }

    /// Calls the writer, and returns whether it succeeded.
    fn guarded(&mut self, call: impl FnOnce(&mut Self) -> io::Result<()>) -> bool {
        let called = catch_unwind(AssertUnwindSafe(|| call(self)));
        let failure = match called {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => error,
            Err(_) => io::Error::other("it panicked"),
        };
        self.failure = Some(failure);
        false
    }
}

/// Writes all of it, or tells how much was taken.
fn write_all(writer: &mut dyn Write, bytes: &[u8], taken: &mut usize) -> io::Result<()> {
    while *taken < bytes.len() {
        match writer.write(&bytes[*taken..]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => *taken = bytes.len().min(*taken + count),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Returns how many bytes are given to the writer by one call: whole lines, one at least.
fn chunk_len(lines: &[u8]) -> usize {
    let within = &lines[..lines.len().min(CHUNK_BYTES_MAX)];
    let end = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte == b'\n');
    let first = || lines.iter().position(|byte| *byte == b'\n');
    end(within).or_else(first).map_or(lines.len(), |at| at + 1)
}

fn count_lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}
