//! Notices as `tracing` events, or as lines if there is no subscriber.

use ::tracing::{Dispatch, dispatcher, subscriber::NoSubscriber};

use super::stderr;

/// Emits the notice as an event with the level `ERROR` and the target `portcullis`.
///
/// Any dependency can enable the feature `tracing`, so there may be no subscriber. In that case,
/// the notice is written as a line.
pub(super) fn say(message: &str) {
    match lacks_subscriber() {
        true => stderr::say(message),
        false => ::tracing::error!(target: "portcullis", "{message}"),
    }
}

/// Returns `true` if this thread has no subscriber that receives events.
pub(crate) fn lacks_subscriber() -> bool {
    dispatcher::get_default(Dispatch::is::<NoSubscriber>)
}
