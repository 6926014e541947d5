//! The empty room of a layer that is not built.

use std::sync::Arc;

use super::{connection::client::Link, store::Shared};
use crate::core::store_api::store_key::StoreKeys;

/// Nothing: its layer's feature is off.
#[derive(Debug)]
pub(super) struct Part;

impl Part {
    pub(super) fn new(_: &Link, _: &StoreKeys) -> Self {
        Self
    }
}

/// Has nothing to give back.
pub(super) async fn close(_: &Arc<Shared>) {}
