//! The empty room of a layer that is not built.

use super::link::Link;
use crate::store_key::StoreKeys;

/// Nothing: its layer's feature is off.
#[derive(Debug)]
pub(super) struct Part;

impl Part {
    pub(super) fn new(_: &Link, _: &StoreKeys) -> Self {
        Self
    }
}
