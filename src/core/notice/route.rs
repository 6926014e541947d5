//! Access logs that write to stderr or stdout: notices are lines of theirs, in their format.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// A stream that the process shares with all that it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stderr,
    Stdout,
}

/// Lines of an access log on a standard stream.
pub(crate) trait Route: Send + Sync {
    /// Takes a notice as a line among the others, unless the stream fails. Returns whether it has.
    fn take(&self, message: &str) -> bool;
}

pub(super) type Routes = Vec<(Stream, Weak<dyn Route>)>;

static ROUTES: Mutex<Routes> = Mutex::new(Vec::new());

/// Hands a notice to the latest lines on stderr, or else on stdout.
pub(super) fn take(message: &str) -> bool {
    // A route may emit a notice itself: it is called without the lock.
    let live = |(stream, route): &(Stream, Weak<dyn Route>)| Some((*stream, route.upgrade()?));
    let live: Vec<(Stream, Arc<dyn Route>)> = routes().iter().rev().filter_map(live).collect();
    let on = |stream| live.iter().filter(move |(on, _)| *on == stream);
    on(Stream::Stderr)
        .chain(on(Stream::Stdout))
        .any(|(_, route)| route.take(message))
}

pub(super) fn routes() -> MutexGuard<'static, Routes> {
    ROUTES.lock().unwrap_or_else(PoisonError::into_inner)
}
