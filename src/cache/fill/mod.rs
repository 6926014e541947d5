//! The path of a handler's response into the store.

pub(super) mod body;
pub(super) mod budget;
pub(super) mod empty_body;
pub(super) mod exchange;
pub(super) mod order;
pub(super) mod relay;
pub(super) mod replaced;
pub(super) mod writer;
