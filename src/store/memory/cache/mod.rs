//! The in-memory cache.

mod state;
mod store;

pub(super) use self::state::CacheTable;
