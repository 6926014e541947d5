//! The cache of the tiered store.

mod state;
mod store;

pub(super) use self::state::Near;
