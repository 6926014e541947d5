//! Listeners for notices.

use std::sync::Arc;

use super::notice::listeners;

/// Registers a callback for all later notices in this process, until the callback returns `false`.
pub(crate) fn listen(listener: impl Fn(&str) -> bool + Send + Sync + 'static) {
    listeners().push(Arc::new(listener));
}
