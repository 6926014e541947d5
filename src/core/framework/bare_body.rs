//! No framework: no body of its own.

use std::any::{Any, TypeId};

/// Returns nothing: no framework has a body of its own.
pub(crate) fn body_type() -> Option<TypeId> {
    None
}

/// Returns nothing: no framework has a body of its own.
pub(crate) fn empty_body() -> Option<Box<dyn Any>> {
    None
}
