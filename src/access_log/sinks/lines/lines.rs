//! Line output on the calling thread or on a dedicated thread.

use std::{
    fmt,
    io::{self, Write},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    line_format::Words,
    writer_queue::{PushOutcome, WriterQueue, lock},
};
use crate::{
    access_log::{
        emit::{drop_counts::DropCounts, weight::Weight},
        sinks::target::LogTarget,
    },
    core::{
        notice::{self, Route},
        time::Timestamp,
    },
};

/// The destination of finished lines.
pub(crate) struct LineOutput {
    mode: WriteMode,
    target: Arc<LogTarget>,
    /// Read on losses, with each notice, and when the thread starts.
    words: Mutex<Arc<dyn Words>>,
}

enum WriteMode {
    /// Calls the writer on the calling thread.
    Direct {
        writer: Mutex<Box<dyn Write + Send>>,
        lost: AtomicU64,
        reported: AtomicU64,
    },
    /// Pushes to a queue that a dedicated thread writes.
    Queued(Arc<WriterQueue>),
}

impl LineOutput {
    /// Creates an output that calls the writer on the calling thread.
    pub(in crate::access_log) fn direct(
        writer: impl Write + Send + 'static,
        words: impl Words + 'static,
    ) -> Arc<Self> {
        let target = LogTarget::of(&writer);
        let mode = WriteMode::Direct {
            writer: Mutex::new(Box::new(writer)),
            lost: AtomicU64::new(0),
            reported: AtomicU64::new(0),
        };
        Self::new(mode, target, words)
    }

    /// Creates an output that calls the writer on a dedicated thread, which starts with the first
    /// line.
    pub(in crate::access_log) fn queued(
        writer: impl Write + Send + 'static,
        words: impl Words + 'static,
    ) -> Arc<Self> {
        let target = LogTarget::of(&writer);
        let queue = WriterQueue::new(Box::new(writer));
        Self::new(WriteMode::Queued(Arc::new(queue)), target, words)
    }

    /// Creates an output. An output to a standard stream also receives the notices.
    fn new(mode: WriteMode, target: LogTarget, words: impl Words + 'static) -> Arc<Self> {
        let stream = target.stream;
        let lines = Arc::new(Self {
            mode,
            target: Arc::new(target),
            words: Mutex::new(Arc::new(words)),
        });
        if let Some(stream) = stream {
            let route: Weak<Self> = Arc::downgrade(&lines);
            notice::adopt(stream, route);
        }
        lines
    }

    /// Sets the format of lines other than records. Call it before the first line.
    pub(in crate::access_log) fn set_words(&self, words: impl Words + 'static) {
        *lock(&self.words) = Arc::new(words);
    }

    fn words(&self) -> Arc<dyn Words> {
        Arc::clone(&lock(&self.words))
    }

    /// Sets the maximum number of queued bytes.
    pub(in crate::access_log) fn set_max_bytes(&self, max_bytes: usize) {
        match &self.mode {
            WriteMode::Direct { .. } => {}
            WriteMode::Queued(queue) => queue.state().max_bytes = max_bytes,
        }
    }

    /// Writes or enqueues one line, which ends with a line feed.
    pub(crate) fn take(&self, weight: Weight, line: &[u8], at: Timestamp) {
        match &self.mode {
            WriteMode::Direct {
                writer,
                lost,
                reported,
            } => {
                let written = self.write_now(writer, lost, reported, line, at);
                if written.is_err() {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
                self.target.note(written.as_ref().copied());
            }
            WriteMode::Queued(queue) => {
                if let PushOutcome::StartThread = queue.push(weight, line, at) {
                    queue.start(&self.target, &self.words());
                }
            }
        }
    }

    /// Returns the number of lost lines, by reason.
    pub(crate) fn drop_counts(&self) -> DropCounts {
        match &self.mode {
            WriteMode::Direct { lost, .. } => DropCounts {
                writer_failed: lost.load(Ordering::Relaxed),
                ..DropCounts::default()
            },
            WriteMode::Queued(queue) => queue.state().drop_counts,
        }
    }

    /// Waits until the writer has accepted all lines, but no longer than `at_most`. Returns `true`
    /// if the writer has accepted them.
    pub(crate) fn flush(&self, at_most: Duration) -> bool {
        match &self.mode {
            WriteMode::Direct { .. } => true,
            WriteMode::Queued(queue) => queue.flush(at_most),
        }
    }

    fn write_now(
        &self,
        writer: &Mutex<Box<dyn Write + Send>>,
        lost: &AtomicU64,
        reported: &AtomicU64,
        line: &[u8],
        at: Timestamp,
    ) -> io::Result<()> {
        // A poisoned lock is ignored: the state of a writer that panicked is up to the writer.
        let mut writer = lock(writer);
        let news = lost.load(Ordering::Relaxed);
        let unreported = news - reported.load(Ordering::Relaxed);
        if unreported > 0 {
            writer.write_all(&self.words().loss(at, "writer_failed", unreported))?;
            reported.store(news, Ordering::Relaxed);
        }
        writer.write_all(line)
    }
}

impl Route for LineOutput {
    fn take(&self, message: &str) -> bool {
        if self.target.is_failing() {
            return false;
        }
        let (at, line) = self.words().notice(message);
        Self::take(self, Weight::Audit, &line, at);
        true
    }
}

impl Drop for LineOutput {
    /// Gives the thread time to write the remaining lines, which no caller can wait for later.
    fn drop(&mut self) {
        match &self.mode {
            WriteMode::Direct { .. } => {}
            WriteMode::Queued(queue) => queue.close(),
        }
    }
}

impl fmt::Debug for LineOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines")
            .field("drop_counts", &self.drop_counts())
            .finish_non_exhaustive()
    }
}
