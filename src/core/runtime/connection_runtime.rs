//! The runtime for a store's connections.

use std::{cell::Cell, panic::catch_unwind, time::Duration};

use tokio::{
    net::UnixStream,
    runtime::{Handle, Id},
};

use super::{
    runtime::{Runtime, Task},
    tokio_runtime::{TokioRuntime, spawn_apart},
};

/// The runtime for a store's connections: the caller's Tokio runtime if it has an I/O driver, and
/// otherwise this crate's thread.
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

/// Returns `true` if the current runtime has an I/O driver.
fn has_io(here: &Handle) -> bool {
    thread_local! {
        /// Tokio reports a missing driver only by panicking, so the result is remembered.
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
