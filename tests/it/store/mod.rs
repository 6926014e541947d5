//! Stores.

pub(super) mod redis;
