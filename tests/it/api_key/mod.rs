//! API keys.

#[cfg(feature = "admin")]
pub(super) mod admin;
#[cfg(feature = "admin")]
pub(super) mod admin_owner;
#[cfg(feature = "admin")]
pub(super) mod admin_races;
pub(super) mod api_key;
pub(super) mod audit;
#[cfg(all(feature = "admin", feature = "metrics", feature = "tracing"))]
pub(super) mod canary;
#[cfg(feature = "test-util")]
pub(super) mod conformance;
pub(super) mod foreign;
pub(super) mod forgery;
pub(super) mod guesses;
pub(super) mod manager;
pub(super) mod pipeline;
pub(super) mod responses;
pub(super) mod sources;
pub(super) mod threats;
