//! Management of keys: creation, change, rotation and revocation.

pub(super) mod audit;
pub(super) mod authority;
pub(super) mod creating;
pub(super) mod manager;
pub(super) mod new_key;
pub(super) mod owner_rules;
pub(super) mod patient;
pub(super) mod update;
