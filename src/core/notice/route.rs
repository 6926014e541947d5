//! Access logs on stderr or stdout that write notices as lines in their own format.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// A standard stream of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stderr,
    Stdout,
}

/// An access log on a standard stream.
pub(crate) trait Route: Send + Sync {
    /// Writes a notice as a line of the log. Returns `true` on success.
    fn take(&self, message: &str) -> bool;
}

pub(super) type Routes = Vec<(Stream, Weak<dyn Route>)>;

static ROUTES: Mutex<Routes> = Mutex::new(Vec::new());

/// Passes a notice to the latest log on stderr, or otherwise to the latest log on stdout.
pub(super) fn take(message: &str) -> bool {
    // A route may emit a notice, so the lock is not held.
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
