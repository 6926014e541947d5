//! Notices as `tracing` events, and as lines without a subscriber.

use ::tracing::{Dispatch, dispatcher, subscriber::NoSubscriber};

use super::stderr;

/// Emits the notice as an event of level `ERROR` and target `portcullis`.
///
/// Any dependency can enable the feature `tracing`, so there may be no subscriber. Then the notice
/// is written as a line.
pub(super) fn say(message: &str) {
    match lacks_subscriber() {
        true => stderr::say(message),
        false => ::tracing::error!(target: "portcullis", "{message}"),
    }
}

/// Returns `true` if no subscriber receives the events of this thread.
pub(crate) fn lacks_subscriber() -> bool {
    dispatcher::get_default(Dispatch::is::<NoSubscriber>)
}
