//! Decisions while the store is unavailable.

pub(super) mod failure_override;
pub(super) mod local_store;
pub(super) mod on_store_error;
pub(super) mod stores;
pub(super) mod watched;
