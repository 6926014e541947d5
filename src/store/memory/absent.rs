//! The tables of layers that are not built.

use super::context::MemoryContext;

/// The absent table of a layer whose feature is off.
#[derive(Debug)]
pub(super) struct AbsentTable;

impl AbsentTable {
    pub(super) fn new(_: &MemoryContext) -> Self {
        Self
    }
}
