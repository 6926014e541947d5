//! Notices about misconfiguration, each emitted once.

#[cfg(feature = "access-log")]
mod adopt;
#[cfg(any(
    feature = "api-key",
    feature = "cache",
    feature = "rate-limit",
    feature = "redis"
))]
mod built_wrong;
#[cfg(feature = "access-log")]
mod listen;
mod notice;
#[cfg(any(
    feature = "api-key",
    feature = "cache",
    feature = "rate-limit",
    feature = "redis"
))]
pub(crate) mod onset;
mod route;
mod stderr;
#[cfg(feature = "tracing")]
mod tracing;

#[cfg(feature = "access-log")]
pub(crate) use self::adopt::adopt;
#[cfg(any(
    feature = "api-key",
    feature = "cache",
    feature = "rate-limit",
    feature = "redis"
))]
pub(crate) use self::built_wrong::built_wrong;
#[cfg(feature = "access-log")]
pub(crate) use self::listen::listen;
pub(crate) use self::notice::{misconfigured, once};
#[cfg(feature = "access-log")]
pub(crate) use self::route::{Route, Stream};
#[cfg(feature = "access-log")]
pub(crate) use self::stderr::plain;
#[cfg(all(feature = "access-log", feature = "tracing"))]
pub(crate) use self::tracing::lacks_subscriber;
