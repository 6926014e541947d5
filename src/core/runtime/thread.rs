//! This crate's threads.

use std::{io, thread};

/// Runs work that may block forever on a separate thread.
///
/// A runtime's blocking task is not suitable, because a runtime waits for its blocking tasks when
/// it shuts down.
pub(crate) fn spawn_thread(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = thread::Builder::new().name(name.to_owned());
    thread.spawn(work).map(drop)
}
