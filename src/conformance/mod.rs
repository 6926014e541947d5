//! Suites that prove a store of anybody's: each promise that a layer relies on is a check here.

#[cfg(feature = "rate-limit")]
mod rate_limit;

#[cfg(feature = "rate-limit")]
pub use self::rate_limit::rate_limit;
