//! The cache on Redis.

mod names;
mod purge;
mod query;
mod state;
mod store;

pub(super) use self::state::CacheShares;
#[cfg(all(feature = "cache", feature = "memory"))]
pub(in crate::store) use self::{names::NAME_BYTES, purge::Purged, query::SeenEntry};
