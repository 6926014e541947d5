//! Notices of misconfiguration, each emitted once.

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

#[cfg(any(
    feature = "api-key",
    feature = "cache",
    feature = "rate-limit",
    feature = "redis"
))]
pub(crate) use self::notice::built_wrong;
pub(crate) use self::notice::{listen, misconfigured, once};
#[cfg(feature = "access-log")]
pub(crate) use self::route::{Route, Stream, adopt};
#[cfg(feature = "access-log")]
pub(crate) use self::stderr::plain;
#[cfg(all(feature = "access-log", feature = "tracing"))]
pub(crate) use self::tracing::lacks_subscriber;
