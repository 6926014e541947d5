//! The empty room of a layer that is not built.

use super::store::Shelf;

/// Nothing: its layer's feature is off.
#[derive(Debug)]
pub(super) struct Part;

impl Part {
    pub(super) fn new(_: &Shelf) -> Self {
        Self
    }
}
