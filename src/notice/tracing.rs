//! Notices as `tracing` events.

/// Emits the notice as an event of level `ERROR` and target `portcullis`.
pub(super) fn say(message: &str) {
    ::tracing::error!(target: "portcullis", "{message}");
}
