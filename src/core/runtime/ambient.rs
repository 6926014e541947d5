//! The default runtime of a layer: Tokio.

use std::sync::Arc;

use super::{runtime::Runtime, tokio_runtime::TokioRuntime};

/// Returns the default runtime of the layers.
pub(crate) fn ambient() -> Option<Arc<dyn Runtime>> {
    Some(Arc::new(TokioRuntime))
}
