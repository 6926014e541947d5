//! Stored records of API keys.

pub(super) mod codec;
pub(super) mod constraints;
pub(super) mod invalid;
pub(super) mod record;
pub(super) mod scopes;

pub use self::record::{KeyRecord, KeyState, KeyStatus, StateChange, StoredKey};
pub use super::{
    key::digest::DigestAlgorithm,
    store::{KeyCursor, KeyPage, ListedKey},
};
