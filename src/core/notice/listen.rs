//! Listeners of notices.

use std::sync::Arc;

use super::notice::listeners;

/// Registers a callback for all later notices of this process, until it returns `false`.
pub(crate) fn listen(listener: impl Fn(&str) -> bool + Send + Sync + 'static) {
    listeners().push(Arc::new(listener));
}
