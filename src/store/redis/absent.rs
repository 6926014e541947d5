//! Placeholders for the state of disabled layers.

use super::connection::client::Link;
use crate::core::store_api::store_key::StoreKeys;

/// The state of a layer whose feature is disabled.
#[derive(Debug)]
pub(super) struct AbsentState;

impl AbsentState {
    pub(super) fn new(_: &Link, _: &StoreKeys) -> Self {
        Self
    }
}

/// Returns immediately, because there are no leased tokens without rate limits.
pub(super) async fn close<T>(_: &T) {}
