//! A store on a Redis server with a near cache in the memory of this process.

#[cfg(feature = "access-log")]
mod access_log;
#[cfg(feature = "api-key")]
mod api_key;
mod cache;
#[cfg(feature = "rate-limit")]
mod rate_limit;
mod store;
pub use self::store::TieredStore;
