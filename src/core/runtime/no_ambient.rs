//! The runtime of a layer that is given none, without Tokio.

use std::sync::Arc;

use super::runtime::Runtime;

/// Returns the runtime that a layer uses unless it is told another: none.
pub(crate) fn ambient() -> Option<Arc<dyn Runtime>> {
    None
}
