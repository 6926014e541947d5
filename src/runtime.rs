//! Spawning and sleeping: the only file that does either.

use std::{fmt, future::Future, io, pin::Pin, thread, time::Duration};

#[cfg(not(feature = "tokio"))]
pub(crate) use self::no_runtime::{ambient, sleep_here};
#[cfg(feature = "tokio")]
pub use self::tokio_runtime::TokioRuntime;
#[cfg(feature = "tokio")]
pub(crate) use self::tokio_runtime::{ambient, sleep_here};

/// A future that a [`Runtime`] runs.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Spawns tasks and sleeps for the layers that need either.
///
/// No layer needs it to answer a request from memory: it serves work beside the request.
/// `TokioRuntime` (feature `tokio`, on by default) is the one to use; this trait is for others.
///
/// ```
/// use std::time::Duration;
/// use portcullis::{Runtime, Task};
///
/// /// Runs on threads: for a service without an async runtime of its own.
/// #[derive(Debug)]
/// struct Threads;
///
/// impl Runtime for Threads {
///     fn spawn(&self, task: Task) {
///         std::thread::spawn(move || futures_block_on(task));
///     }
///
///     fn sleep(&self, duration: Duration) -> Task {
///         Box::pin(async move { std::thread::sleep(duration) })
///     }
/// }
/// # fn futures_block_on(_task: Task) {}
/// ```
pub trait Runtime: fmt::Debug + Send + Sync + 'static {
    /// Runs a task beside the caller. The task ends by itself.
    fn spawn(&self, task: Task);

    /// Returns whether a task can be spawned from here. Asked where a value is dropped, which may be
    /// anywhere.
    fn can_spawn(&self) -> bool {
        true
    }

    /// Returns a future that is ready once this much time has passed.
    fn sleep(&self, duration: Duration) -> Task;

    /// Returns the same, or `None` where nothing tells the time. Asked where a request can go on
    /// without.
    fn try_sleep(&self, duration: Duration) -> Option<Task> {
        Some(self.sleep(duration))
    }
}

/// Runs work that may block for ever, on a thread of its own.
///
/// Not as a blocking task of a runtime: one that shuts down waits for those, and would never end.
pub(crate) fn spawn_thread(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = thread::Builder::new().name(name.to_owned());
    thread.spawn(work).map(drop)
}

#[cfg(feature = "tokio")]
mod tokio_runtime {
    #![expect(
        clippy::disallowed_methods,
        reason = "the one place that spawns and sleeps"
    )]

    use std::{cell::Cell, panic::catch_unwind, sync::Arc, time::Duration};

    use tokio::runtime::{Handle, Id};

    use super::{Runtime, Task};

    /// Returns the runtime that a layer uses unless it is told another.
    pub(crate) fn ambient() -> Option<Arc<dyn Runtime>> {
        Some(Arc::new(TokioRuntime))
    }

    /// Sleeps on the Tokio runtime that polls, if there is one and it has a timer.
    pub(crate) fn sleep_here(duration: Duration) -> Option<Task> {
        thread_local! {
            /// Tokio tells of a missing timer by a panic alone: one is enough.
            static HAS_NO_TIMER: Cell<Option<Id>> = const { Cell::new(None) };
        }
        let here = Handle::try_current().ok()?.id();
        if HAS_NO_TIMER.get() == Some(here) {
            return None;
        }
        let sleep = catch_unwind(|| tokio::time::sleep(duration));
        if sleep.is_err() {
            HAS_NO_TIMER.set(Some(here));
        }
        Some(Box::pin(sleep.ok()?))
    }

    /// Spawns and sleeps on the Tokio runtime that the caller runs in.
    ///
    /// Where there is none, or one without a time driver, [`try_sleep`](Runtime::try_sleep) returns
    /// `None`: what a layer then waits for has no deadline.
    ///
    /// # Panics
    ///
    /// [`spawn`](Runtime::spawn) outside of a Tokio runtime, and [`sleep`](Runtime::sleep) there or
    /// in one without a time driver.
    #[derive(Clone, Copy, Debug, Default)]
    pub struct TokioRuntime;

    impl Runtime for TokioRuntime {
        fn spawn(&self, task: Task) {
            tokio::spawn(task);
        }

        fn can_spawn(&self) -> bool {
            tokio::runtime::Handle::try_current().is_ok()
        }

        fn sleep(&self, duration: Duration) -> Task {
            Box::pin(tokio::time::sleep(duration))
        }

        fn try_sleep(&self, duration: Duration) -> Option<Task> {
            sleep_here(duration)
        }
    }
}

#[cfg(not(feature = "tokio"))]
mod no_runtime {
    use std::{sync::Arc, time::Duration};

    use super::{Runtime, Task};

    /// Sleeps on nothing.
    pub(crate) fn sleep_here(_: Duration) -> Option<Task> {
        None
    }

    /// Returns the runtime that a layer uses unless it is told another: none.
    pub(crate) fn ambient() -> Option<Arc<dyn Runtime>> {
        None
    }
}
