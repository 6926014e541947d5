//! Stores on Redis.

#[cfg(all(feature = "redis", feature = "test-util"))]
pub(super) mod batches;
#[cfg(all(feature = "redis", feature = "test-util"))]
pub(super) mod cache;
#[cfg(all(feature = "redis", feature = "test-util"))]
pub(super) mod cluster;
#[cfg(all(feature = "redis", feature = "test-util"))]
pub(super) mod cluster_faults;
#[cfg(all(feature = "redis", feature = "test-util"))]
pub(super) mod conformance;
#[cfg(all(feature = "redis", feature = "test-util"))]
pub(super) mod counting;
#[cfg(all(feature = "redis", feature = "test-util"))]
pub(super) mod credentials;
#[cfg(all(feature = "redis", feature = "test-util"))]
pub(super) mod faults;
#[cfg(all(feature = "redis", feature = "test-util"))]
pub(super) mod faults_layers;
#[cfg(all(feature = "redis", feature = "test-util"))]
pub(super) mod gate;
#[cfg(all(feature = "redis", feature = "test-util"))]
pub(super) mod keys;
#[cfg(all(feature = "redis", feature = "test-util"))]
pub(super) mod logs;
#[cfg(all(feature = "encryption", feature = "redis", feature = "test-util"))]
pub(super) mod origins;
#[cfg(all(feature = "redis", feature = "test-util"))]
pub(super) mod outages;
#[cfg(all(feature = "redis", feature = "test-util"))]
pub(super) mod outside_tokio;
#[cfg(all(feature = "redis", feature = "test-util"))]
pub(super) mod protocol;
#[cfg(all(feature = "redis", feature = "test-util"))]
pub(super) mod rate_limit;
#[cfg(all(feature = "redis", feature = "test-util"))]
pub(super) mod redis;
#[cfg(all(feature = "redis", feature = "test-util"))]
pub(super) mod refusals;
#[cfg(all(feature = "redis", feature = "test-util"))]
pub(super) mod scripts;
#[cfg(all(feature = "redis", feature = "shutdown", feature = "test-util"))]
pub(super) mod shutdown;
#[cfg(all(feature = "redis", feature = "test-util"))]
pub(super) mod slow;
#[cfg(all(feature = "redis", feature = "test-util"))]
pub(super) mod tiered;
#[cfg(all(feature = "redis-tls", feature = "test-util"))]
pub(super) mod tls;
