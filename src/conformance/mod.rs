//! Suites that prove a store of anybody's: each promise that a layer relies on is a check here.

#[cfg(feature = "api-key")]
mod api_key;

#[cfg(feature = "api-key")]
pub use self::api_key::api_key;
