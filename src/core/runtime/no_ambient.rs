//! The default runtime of a layer without Tokio, which is none.

use std::sync::Arc;

use super::runtime::Runtime;

/// Returns `None`, because there is no default runtime.
pub(crate) fn ambient() -> Option<Arc<dyn Runtime>> {
    None
}
