//! Connections to Redis servers.

pub(super) mod breaker;
pub(super) mod client;
pub(super) mod driver;
pub(super) mod error;
pub(super) mod ground;
pub(super) mod node;
pub(super) mod pass;
pub(super) mod patience;
pub(super) mod protocol;
pub(super) mod pubsub;
pub(super) mod script;
pub(super) mod stats;
#[cfg(feature = "redis-tls")]
pub(super) mod tls;
#[cfg(not(feature = "redis-tls"))]
pub(super) mod tls_absent;
pub(super) mod wire;

#[cfg(not(feature = "redis-tls"))]
pub(super) use self::tls_absent as tls;
