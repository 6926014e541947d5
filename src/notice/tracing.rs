//! Notices as `tracing` events, and on stderr where no subscriber receives them.

use ::tracing::{Dispatch, dispatcher, subscriber::NoSubscriber};

use super::stderr;

/// Emits the notice as an event of level `ERROR` and target `portcullis`.
///
/// Any dependency may enable the feature `tracing`, so a subscriber need not exist: without one the
/// notice is a line on stderr.
pub(super) fn say(message: &str) {
    match dispatcher::get_default(Dispatch::is::<NoSubscriber>) {
        true => stderr::say(message),
        false => ::tracing::error!(target: "portcullis", "{message}"),
    }
}
