//! Placeholders for the tables of disabled layers.

use super::context::MemoryContext;

/// The table of a layer whose feature is disabled.
#[derive(Debug)]
pub(super) struct AbsentTable;

impl AbsentTable {
    pub(super) fn new(_: &MemoryContext) -> Self {
        Self
    }
}
