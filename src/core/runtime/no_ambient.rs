//! The default runtime of a layer without Tokio: none.

use std::sync::Arc;

use super::runtime::Runtime;

/// Returns the default runtime of the layers: none.
pub(crate) fn ambient() -> Option<Arc<dyn Runtime>> {
    None
}
