//! A log file that can be reopened, for rotation by another program.

use std::{
    fmt,
    fs::File,
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::io_fix::fix;
use crate::core::notice;

/// A log file to which lines are appended. After `logrotate` has renamed the file,
/// [`reopen`](Self::reopen) opens a file at the original path.
///
/// Use a `LogFile` as the writer of [`JsonLines`](super::JsonLines),
/// [`TextLines`](super::TextLines) or [`PrettyLines`](super::PrettyLines). Clones share the file:
/// pass one clone to the sink, and reopen the file with another.
///
/// ```
/// use portcullis::access_log::{AccessLogLayer, sinks::LogFile};
///
/// # let path = std::env::temp_dir().join(format!("portcullis-log-file-{}", std::process::id()));
/// # #[cfg(unix)]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn serve(path: std::path::PathBuf) -> std::io::Result<()> {
/// let file = LogFile::open(path)?;
/// let layer = AccessLogLayer::json_lines(file.clone());
///
/// use tokio::signal::unix::{SignalKind, signal};
/// let mut hangups = signal(SignalKind::hangup())?;
/// tokio::spawn(async move { while hangups.recv().await.is_some() { let _ = file.reopen(); } });
/// # let _ = layer;
/// # Ok(())
/// # }
/// # #[cfg(unix)]
/// # serve(path.clone())?;
/// # let _ = std::fs::remove_file(path);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// For this example, configure `logrotate` to send SIGHUP in `postrotate`. Do not use
/// `copytruncate`, which can lose lines.
///
/// To rotate files by time within this process, pass the `RollingFileAppender` from the
/// `tracing-appender` crate instead, for example
/// `JsonLines::writer(tracing_appender::rolling::daily(dir, "access.log"))`. That crate's
/// non-blocking writer is not needed, because the sink has its own thread and queue.
#[derive(Clone)]
pub struct LogFile {
    shared: Arc<SharedFile>,
}

struct SharedFile {
    path: PathBuf,
    current: Mutex<CurrentFile>,
    /// The reopened file, until the writer is between two lines.
    next: Mutex<Option<File>>,
    /// `true` since the last attempt to reopen the file failed.
    is_failing: AtomicBool,
}

/// The file that receives the lines.
struct CurrentFile {
    file: File,
    /// `true` if the rest of a line follows, which belongs in the same file.
    is_within_line: bool,
}

impl LogFile {
    /// Opens a file for appending lines, and creates the file if necessary.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be opened or created.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let current = CurrentFile {
            file: append(&path)?,
            is_within_line: false,
        };
        let shared = SharedFile {
            path,
            current: Mutex::new(current),
            next: Mutex::new(None),
            is_failing: AtomicBool::new(false),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Opens the file at the same path again, and creates the file if necessary. Later lines are
    /// written to the reopened file.
    ///
    /// This method does not wait for a write that is in progress.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be opened or created. In this case, lines are still
    /// written to the previous file. The first failure after a success is also reported as a
    /// notice.
    pub fn reopen(&self) -> io::Result<()> {
        let shared = &self.shared;
        let file = append(&shared.path).inspect_err(|error| shared.report(error))?;
        shared.is_failing.store(false, Ordering::Relaxed);
        *lock(&shared.next) = Some(file);
        // Without a write in progress, the previous file is closed immediately.
        match shared.current.try_lock() {
            Ok(mut current) => shared.advance(&mut current),
            Err(TryLockError::Poisoned(current)) => shared.advance(&mut current.into_inner()),
            Err(TryLockError::WouldBlock) => {}
        }
        Ok(())
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }
}

impl SharedFile {
    /// Replaces the file with the reopened one, unless it holds the beginning of a line.
    fn advance(&self, current: &mut CurrentFile) {
        if current.is_within_line {
            return;
        }
        if let Some(next) = lock(&self.next).take() {
            current.file = next;
        }
    }

    fn report(&self, error: &io::Error) {
        if self.is_failing.swap(true, Ordering::Relaxed) {
            return;
        }
        notice::once(&AtomicBool::new(false), || {
            let (path, fix) = (self.path.display(), fix(error.kind()));
            format!(
                "the access log cannot reopen `{path}`: {error}; its records go to the previous \
                 file until it can: {fix}"
            )
        });
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut current = lock(&self.shared.current);
        self.shared.advance(&mut current);
        let written = current.file.write(bytes);
        current.is_within_line = match written {
            Ok(0) => current.is_within_line,
            Ok(count) => bytes.get(count - 1).is_some_and(|last| *last != b'\n'),
            Err(ref error) if error.kind() == ErrorKind::Interrupted => current.is_within_line,
            // The writer gives up the rest of the line.
            Err(_) => false,
        };
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        lock(&self.shared.current).file.flush()
    }
}

impl fmt::Debug for LogFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogFile")
            .field("path", &self.shared.path)
            .finish_non_exhaustive()
    }
}

fn append(path: &Path) -> io::Result<File> {
    File::options().append(true).create(true).open(path)
}

/// Locks a value. A panic leaves it consistent, so a poisoned lock is ignored.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
