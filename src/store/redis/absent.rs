//! The state of layers that are not built.

use super::connection::client::Link;
use crate::core::store_api::store_key::StoreKeys;

/// The absent state of a layer whose feature is off.
#[derive(Debug)]
pub(super) struct AbsentState;

impl AbsentState {
    pub(super) fn new(_: &Link, _: &StoreKeys) -> Self {
        Self
    }
}

/// Returns at once: rate limits that are not built hold no tokens.
pub(super) async fn close<T>(_: &T) {}
