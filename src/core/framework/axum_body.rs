//! axum's request body.

use std::any::{Any, TypeId};

use axum::body::Body;

/// Returns the type of axum's request body.
pub(crate) fn body_type() -> Option<TypeId> {
    Some(TypeId::of::<Body>())
}

/// Returns an empty axum request body.
pub(crate) fn empty_body() -> Option<Box<dyn Any>> {
    Some(Box::new(Body::empty()))
}
