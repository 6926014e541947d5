//! Spawning and sleeping.

#[cfg(all(
    feature = "tokio",
    any(feature = "access-log", feature = "cache", feature = "rate-limit")
))]
mod ambient;
#[cfg(feature = "redis")]
mod connection_runtime;
#[cfg(all(
    not(feature = "tokio"),
    any(feature = "access-log", feature = "cache", feature = "rate-limit")
))]
mod no_ambient;
#[cfg(all(
    not(feature = "tokio"),
    any(feature = "api-key", feature = "cache", feature = "rate-limit")
))]
mod no_sleep;
mod runtime;
#[cfg(any(feature = "access-log", feature = "api-key", feature = "tokio"))]
mod thread;
#[cfg(feature = "tokio")]
mod tokio_runtime;

#[cfg(all(
    feature = "tokio",
    any(feature = "access-log", feature = "cache", feature = "rate-limit")
))]
pub(crate) use self::ambient::ambient;
#[cfg(feature = "redis")]
pub(crate) use self::connection_runtime::ConnectionRuntime;
#[cfg(all(
    not(feature = "tokio"),
    any(feature = "access-log", feature = "cache", feature = "rate-limit")
))]
pub(crate) use self::no_ambient::ambient;
#[cfg(all(
    not(feature = "tokio"),
    any(feature = "api-key", feature = "cache", feature = "rate-limit")
))]
pub(crate) use self::no_sleep::sleep_here;
pub use self::runtime::{Runtime, Task};
#[cfg(any(feature = "access-log", feature = "api-key"))]
pub(crate) use self::thread::spawn_thread;
#[cfg(feature = "tokio")]
pub use self::tokio_runtime::TokioRuntime;
#[cfg(all(
    feature = "tokio",
    any(feature = "api-key", feature = "cache", feature = "rate-limit")
))]
pub(crate) use self::tokio_runtime::sleep_here;
