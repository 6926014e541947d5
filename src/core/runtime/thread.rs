//! Threads of this crate.

use std::{io, thread};

/// Runs work that may block for ever, on a thread of its own.
///
/// Not as a blocking task of a runtime: one that shuts down waits for those, and would never end.
pub(crate) fn spawn_thread(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = thread::Builder::new().name(name.to_owned());
    thread.spawn(work).map(drop)
}
