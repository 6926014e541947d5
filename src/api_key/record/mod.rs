//! The stored record of a key.

pub(super) mod codec;
pub(super) mod constraints;
pub(super) mod invalid;
pub(super) mod record;
pub(super) mod scopes;
