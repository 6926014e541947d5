//! Spawning and sleeping on Tokio. No other file does either.

#![expect(
    clippy::disallowed_methods,
    reason = "the one place that spawns and sleeps"
)]

use std::{
    cell::Cell,
    future::{pending, ready},
    io,
    panic::catch_unwind,
    sync::{Mutex, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use tokio::runtime::{Builder, Handle, Id};

use super::{
    runtime::{Runtime, Task},
    thread::spawn_thread,
};
use crate::core::notice;

/// Sleeps on the Tokio runtime that polls the future, if there is such a runtime and it has a
/// timer.
pub(crate) fn sleep_here(duration: Duration) -> Option<Task> {
    thread_local! {
        /// Tokio reports a missing timer only by panicking, so the result is remembered.
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

/// A runtime that spawns and sleeps on the caller's Tokio runtime.
///
/// Outside a Tokio runtime, [`spawn`](Runtime::spawn) and [`sleep`](Runtime::sleep) use a thread
/// named `portcullis`, which the process starts on first use. That thread runs one Tokio runtime
/// with all drivers. In a runtime without a time driver, `sleep` also uses that thread. Neither
/// method panics. If the system cannot start the thread, a notice is emitted, tasks are dropped,
/// and sleeps complete immediately.
///
/// Outside a Tokio runtime, [`try_sleep`](Runtime::try_sleep) returns `None`, so a layer has no
/// store timeout. [`can_spawn`](Runtime::can_spawn) returns `false`, so the cache does not refresh
/// entries in the background.
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

/// Spawns a task on this crate's thread.
pub(super) fn spawn_apart(task: Task) {
    if let Some(apart) = apart() {
        apart.spawn(task);
    }
}

/// Sleeps with the timer of this crate's thread.
fn sleep_apart(duration: Duration) -> Task {
    let Some(apart) = apart() else {
        return Box::pin(ready(()));
    };
    let _context = apart.enter();
    Box::pin(tokio::time::sleep(duration))
}

/// Returns the runtime of this crate's thread, which starts on first use.
fn apart() -> Option<Handle> {
    static REFUSED: AtomicBool = AtomicBool::new(false);
    let started = started();
    if let Err(error) = &started {
        notice::once(&REFUSED, || {
            format!("the thread for work outside of a Tokio runtime did not start: {error}")
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
