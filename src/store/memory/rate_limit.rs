//! The rate_limit part of the store in memory.

use super::Shelf;

/// What this part keeps.
#[derive(Debug)]
pub(super) struct Part;

impl Part {
    pub(super) fn new(_: &Shelf) -> Self {
        Self
    }
}
