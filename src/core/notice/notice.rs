//! Notices about misconfiguration, each emitted once as a `tracing` event, as a line of an access
//! log on a standard stream, or as a line on stderr.

#[cfg(not(feature = "tracing"))]
use super::stderr::say;
#[cfg(feature = "tracing")]
use super::tracing::say;
use crate::core::error::ConfigError;
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

/// Emits a notice and sets the flag, unless the flag is already set.
///
/// Every request may encounter the same misconfiguration, but the operator is notified only once.
/// The message is formatted only if it is emitted. Later calls cost one atomic load.
pub(crate) fn once(said: &AtomicBool, message: impl FnOnce() -> String) {
    // Load before swap, since a swap on each request would contend for the cache line.
    if !said.load(Ordering::Relaxed) && !said.swap(true, Ordering::Relaxed) {
        let message = message();
        say(&message);
        notify_listeners(&message);
    }
}

/// Emits a notice about an invalid configuration and sets the flag, unless the flag is already set.
pub(crate) fn misconfigured(said: &AtomicBool, error: impl FnOnce() -> ConfigError) {
    once(said, || error().to_string());
}

/// A callback for notices. Returns `true` to receive more notices.
pub(super) type Listener = dyn Fn(&str) -> bool + Send + Sync;

pub(super) static LISTENERS: Mutex<Vec<Arc<Listener>>> = Mutex::new(Vec::new());

pub(super) fn notify_listeners(message: &str) {
    // Listeners can run any code, so the lock is not held.
    let all = listeners().clone();
    let content: Vec<_> = all.into_iter().filter(|hear| !hear(message)).collect();
    let is_content = |one: &Arc<Listener>| content.iter().any(|other| Arc::ptr_eq(one, other));
    listeners().retain(|listener| !is_content(listener));
}

pub(super) fn listeners() -> MutexGuard<'static, Vec<Arc<Listener>>> {
    LISTENERS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notice_is_formatted_and_emitted_once() {
        let said = AtomicBool::new(false);
        let mut written = 0;
        for _ in 0..3 {
            once(&said, || {
                written += 1;
                String::from("a notice from a test")
            });
        }
        assert_eq!(written, 1);
    }

    #[test]
    fn each_notice_is_emitted() {
        let mut written = 0;
        for said in [AtomicBool::new(false), AtomicBool::new(false)] {
            once(&said, || {
                written += 1;
                String::from("a notice from a test")
            });
        }
        assert_eq!(written, 2);
    }
}
