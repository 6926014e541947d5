//! The runtime of a layer that is given none: Tokio.

use std::sync::Arc;

use super::{runtime::Runtime, tokio_runtime::TokioRuntime};

/// Returns the runtime that a layer uses unless it is told another.
pub(crate) fn ambient() -> Option<Arc<dyn Runtime>> {
    Some(Arc::new(TokioRuntime))
}
