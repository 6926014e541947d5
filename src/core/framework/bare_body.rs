//! The absence of a framework's request body type.

use std::any::{Any, TypeId};

/// Returns `None`, because no framework has its own body type.
pub(crate) fn body_type() -> Option<TypeId> {
    None
}

/// Returns `None`, because no framework has its own body type.
pub(crate) fn empty_body() -> Option<Box<dyn Any>> {
    None
}
