//! Listeners of notices.

use std::sync::Arc;

use super::notice::listeners;

/// Tells all further notices of this process to a listener, until it returns that it is enough.
pub(crate) fn listen(listener: impl Fn(&str) -> bool + Send + Sync + 'static) {
    listeners().push(Arc::new(listener));
}
