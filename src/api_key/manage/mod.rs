//! Creation, change, rotation and revocation of keys.

pub(super) mod audit;
pub(super) mod authority;
pub(super) mod change;
pub(super) mod creating;
pub(super) mod generate;
pub(super) mod generated_key;
pub(super) mod key_error;
pub(super) mod listing;
pub(super) mod manager;
pub(super) mod new_key;
pub(super) mod owner_rules;
pub(super) mod patient;
pub(super) mod rotate;
pub(super) mod update;
