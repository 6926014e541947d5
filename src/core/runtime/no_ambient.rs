//! The absence of a default runtime without Tokio.

use std::sync::Arc;

use super::runtime::Runtime;

/// Returns `None`, because there is no default runtime.
pub(crate) fn ambient() -> Option<Arc<dyn Runtime>> {
    None
}
