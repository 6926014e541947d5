//! The cache in memory.

mod state;
mod store;

pub(super) use self::state::CacheTable;
