//! Threads of the crate.

use std::{io, thread};

/// Runs work that may block forever on a separate thread.
///
/// A blocking task of a runtime is not suitable, since the runtime waits for it when it shuts down.
pub(crate) fn spawn_thread(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = thread::Builder::new().name(name.to_owned());
    thread.spawn(work).map(drop)
}
