//! Suites that prove a store of anybody's: each promise that a layer relies on is a check here.

#[cfg(feature = "access-log")]
mod log_store;

#[cfg(feature = "access-log")]
pub use self::log_store::log_store;
