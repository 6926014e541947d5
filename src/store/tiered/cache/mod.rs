//! The cache in two tiers.

mod state;
mod store;

pub(super) use self::state::Near;
