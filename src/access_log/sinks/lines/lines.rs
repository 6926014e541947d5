//! Lines that the calling thread writes, or that a dedicated thread writes in the background.

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
    way: Way,
    target: Arc<LogTarget>,
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
    Queued(Arc<WriterQueue>),
}

impl LineOutput {
    /// Calls the writer on the thread that makes the line.
    pub(in crate::access_log) fn direct(
        writer: impl Write + Send + 'static,
        words: impl Words + 'static,
    ) -> Arc<Self> {
        let target = LogTarget::of(&writer);
        let way = Way::Direct {
            writer: Mutex::new(Box::new(writer)),
            lost: AtomicU64::new(0),
            told: AtomicU64::new(0),
        };
        Self::new(way, target, words)
    }

    /// Calls the writer on a thread of its own, which starts with the first line.
    pub(in crate::access_log) fn queued(
        writer: impl Write + Send + 'static,
        words: impl Words + 'static,
    ) -> Arc<Self> {
        let target = LogTarget::of(&writer);
        let queue = WriterQueue::new(Box::new(writer));
        Self::new(Way::Queued(Arc::new(queue)), target, words)
    }

    /// Notices are lines of those on a standard stream.
    fn new(way: Way, target: LogTarget, words: impl Words + 'static) -> Arc<Self> {
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
    pub(in crate::access_log) fn set_words(&self, words: impl Words + 'static) {
        *lock(&self.words) = Arc::new(words);
    }

    fn words(&self) -> Arc<dyn Words> {
        Arc::clone(&lock(&self.words))
    }

    /// Sets how many bytes may wait.
    pub(in crate::access_log) fn set_bytes_max(&self, max_bytes: usize) {
        match &self.way {
            Way::Direct { .. } => {}
            Way::Queued(queue) => queue.state().max_bytes = max_bytes,
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
                if let PushOutcome::StartThread = queue.push(weight, line, at) {
                    queue.start(&self.target, &self.words());
                }
            }
        }
    }

    /// Returns how many lines were lost so far, and why.
    pub(crate) fn drop_counts(&self) -> DropCounts {
        match &self.way {
            Way::Direct { lost, .. } => DropCounts {
                writer_failed: lost.load(Ordering::Relaxed),
                ..DropCounts::default()
            },
            Way::Queued(queue) => queue.state().drop_counts,
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
    /// Gives the thread a moment to write what is left: nobody can wait for it after this.
    fn drop(&mut self) {
        match &self.way {
            Way::Direct { .. } => {}
            Way::Queued(queue) => queue.close(),
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
