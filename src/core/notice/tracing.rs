//! Notices as `tracing` events, and as lines where no subscriber receives them.

use ::tracing::{Dispatch, dispatcher, subscriber::NoSubscriber};

use super::stderr;

/// Emits the notice as an event of level `ERROR` and target `portcullis`.
///
/// Any dependency may enable the feature `tracing`, so a subscriber need not exist: without one the
/// notice is a line.
pub(super) fn say(message: &str) {
    match lacks_subscriber() {
        true => stderr::say(message),
        false => ::tracing::error!(target: "portcullis", "{message}"),
    }
}

/// Returns whether no subscriber receives the events of this thread.
pub(crate) fn lacks_subscriber() -> bool {
    dispatcher::get_default(Dispatch::is::<NoSubscriber>)
}
