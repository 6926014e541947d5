//! Spawning and sleeping: the only file that does either.

use std::{fmt, future::Future, io, pin::Pin, thread, time::Duration};

#[cfg(feature = "redis")]
pub(crate) use self::connection_runtime::ConnectionRuntime;
#[cfg(all(
    not(feature = "tokio"),
    any(feature = "access-log", feature = "cache", feature = "rate-limit")
))]
pub(crate) use self::no_runtime::ambient;
#[cfg(all(
    not(feature = "tokio"),
    any(feature = "api-key", feature = "cache", feature = "rate-limit")
))]
pub(crate) use self::no_runtime::sleep_here;
#[cfg(feature = "tokio")]
pub use self::tokio_runtime::TokioRuntime;
#[cfg(all(
    feature = "tokio",
    any(feature = "access-log", feature = "cache", feature = "rate-limit")
))]
pub(crate) use self::tokio_runtime::ambient;
#[cfg(all(
    feature = "tokio",
    any(feature = "api-key", feature = "cache", feature = "rate-limit")
))]
pub(crate) use self::tokio_runtime::sleep_here;

/// A future that a [`Runtime`] runs.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Spawns tasks and sleeps for the layers that need either.
///
/// No layer needs it to respond from memory: it runs work in the background. `TokioRuntime` (feature
/// `tokio`, on by default) is the one to use; this trait is for others.
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
    /// Runs a task concurrently with the caller. The task ends by itself.
    fn spawn(&self, task: Task);

    /// Returns whether a task that is spawned here runs on the runtime of the caller.
    ///
    /// Layers ask it before they spawn the user's own futures, such as a handler that refreshes a
    /// cache entry, and where a value is dropped, which may be anywhere. Defaults to `true`.
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
#[cfg_attr(
    not(any(feature = "access-log", feature = "api-key", feature = "redis")),
    allow(dead_code)
)]
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

    use std::{
        cell::Cell,
        future::{pending, ready},
        io,
        panic::catch_unwind,
        sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
        time::Duration,
    };

    use tokio::runtime::{Builder, Handle, Id};

    use super::{Runtime, Task, spawn_thread};
    use crate::core::notice;

    /// Returns the runtime that a layer uses unless it is told another.
    #[cfg_attr(
        not(any(feature = "access-log", feature = "cache", feature = "rate-limit")),
        allow(dead_code)
    )]
    pub(crate) fn ambient() -> Option<Arc<dyn Runtime>> {
        Some(Arc::new(TokioRuntime))
    }

    /// Sleeps on the Tokio runtime that polls, if there is one and it has a timer.
    #[cfg_attr(
        not(any(feature = "api-key", feature = "cache", feature = "rate-limit")),
        allow(dead_code)
    )]
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

    /// Spawns and sleeps on the Tokio runtime of the caller.
    ///
    /// Outside of a Tokio runtime, [`spawn`](Runtime::spawn) and [`sleep`](Runtime::sleep) use a
    /// thread named `portcullis`, which the process starts on first use; it has one Tokio runtime with
    /// all drivers. So does `sleep` in a runtime without a time driver. Neither panics: if the system
    /// refuses the thread, a notice is reported, tasks are dropped, and sleeps end at once.
    ///
    /// [`try_sleep`](Runtime::try_sleep) returns `None` there, so a layer waits for its store without
    /// a deadline of its own, and [`can_spawn`](Runtime::can_spawn) returns `false`, so the cache
    /// refreshes no entry in the background.
    #[derive(Clone, Copy, Debug, Default)]
    pub struct TokioRuntime;

    impl Runtime for TokioRuntime {
        fn spawn(&self, task: Task) {
            match Handle::try_current() {
                Ok(here) => drop(here.spawn(task)),
                Err(_) => spawn_apart(task),
            }
        }

        fn can_spawn(&self) -> bool {
            Handle::try_current().is_ok()
        }

        fn sleep(&self, duration: Duration) -> Task {
            sleep_here(duration).unwrap_or_else(|| sleep_apart(duration))
        }

        fn try_sleep(&self, duration: Duration) -> Option<Task> {
            sleep_here(duration)
        }
    }

    /// Runs a task on the thread of this crate.
    pub(super) fn spawn_apart(task: Task) {
        if let Some(apart) = apart() {
            apart.spawn(task);
        }
    }

    /// Sleeps by the timer of this crate's thread.
    fn sleep_apart(duration: Duration) -> Task {
        let Some(apart) = apart() else {
            return Box::pin(ready(()));
        };
        let _context = apart.enter();
        Box::pin(tokio::time::sleep(duration))
    }

    /// Returns the runtime of this crate's thread, which is started on first use.
    fn apart() -> Option<Handle> {
        static REFUSED: AtomicBool = AtomicBool::new(false);
        let started = started();
        if let Err(error) = &started {
            notice::once(&REFUSED, || {
                format!("the thread for work outside of a Tokio runtime cannot start: {error}")
            });
        }
        started.ok()
    }

    fn started() -> io::Result<Handle> {
        static APART: Mutex<Option<Handle>> = Mutex::new(None);
        let mut apart = APART.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = &*apart {
            return Ok(handle.clone());
        }
        Ok(apart.insert(start()?).clone())
    }

    fn start() -> io::Result<Handle> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        spawn_thread("portcullis", move || runtime.block_on(pending()))?;
        Ok(handle)
    }
}

#[cfg(feature = "redis")]
mod connection_runtime {
    use std::{cell::Cell, panic::catch_unwind, time::Duration};

    use tokio::{
        net::UnixStream,
        runtime::{Handle, Id},
    };

    use super::{Runtime, Task, TokioRuntime, tokio_runtime::spawn_apart};

    /// Runs the connections of a store: on the Tokio runtime of the caller if it has an I/O driver,
    /// and on the thread of this crate otherwise.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct ConnectionRuntime;

    impl Runtime for ConnectionRuntime {
        fn spawn(&self, task: Task) {
            match Handle::try_current() {
                Ok(here) if has_io(&here) => drop(here.spawn(task)),
                Ok(_) | Err(_) => spawn_apart(task),
            }
        }

        fn sleep(&self, duration: Duration) -> Task {
            TokioRuntime.sleep(duration)
        }
    }

    /// Returns whether a runtime, the one that polls, has an I/O driver.
    fn has_io(here: &Handle) -> bool {
        thread_local! {
            /// Tokio reports a missing driver by a panic only: one is enough.
            static KNOWN: Cell<Option<(Id, bool)>> = const { Cell::new(None) };
        }
        match KNOWN.get() {
            Some((id, has_io)) if id == here.id() => has_io,
            Some(_) | None => {
                let has_io = catch_unwind(|| drop(UnixStream::pair())).is_ok();
                KNOWN.set(Some((here.id(), has_io)));
                has_io
            }
        }
    }
}

#[cfg(not(feature = "tokio"))]
mod no_runtime {
    use std::{sync::Arc, time::Duration};

    use super::{Runtime, Task};

    /// Sleeps on nothing.
    #[cfg_attr(
        not(any(feature = "api-key", feature = "cache", feature = "rate-limit")),
        allow(dead_code)
    )]
    pub(crate) fn sleep_here(_: Duration) -> Option<Task> {
        None
    }

    /// Returns the runtime that a layer uses unless it is told another: none.
    #[cfg_attr(
        not(any(feature = "access-log", feature = "cache", feature = "rate-limit")),
        allow(dead_code)
    )]
    pub(crate) fn ambient() -> Option<Arc<dyn Runtime>> {
        None
    }
}
