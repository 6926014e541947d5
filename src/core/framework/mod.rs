//! Integration with web frameworks: the extensions that they insert into requests.

#[cfg(feature = "axum")]
mod axum;
#[cfg(all(feature = "axum", feature = "cache"))]
mod axum_body;
#[cfg(all(
    feature = "axum",
    any(feature = "access-log", feature = "cache", feature = "rate-limit")
))]
mod axum_route;
#[cfg(not(feature = "axum"))]
mod bare;
#[cfg(all(not(feature = "axum"), feature = "cache"))]
mod bare_body;
#[cfg(all(
    not(feature = "axum"),
    any(feature = "access-log", feature = "cache", feature = "rate-limit")
))]
mod bare_route;

#[cfg(feature = "axum")]
pub(crate) use self::axum::*;
#[cfg(all(feature = "axum", feature = "cache"))]
pub(crate) use self::axum_body::*;
#[cfg(all(
    feature = "axum",
    any(feature = "access-log", feature = "cache", feature = "rate-limit")
))]
pub(crate) use self::axum_route::*;
#[cfg(not(feature = "axum"))]
pub(crate) use self::bare::*;
#[cfg(all(not(feature = "axum"), feature = "cache"))]
pub(crate) use self::bare_body::*;
#[cfg(all(
    not(feature = "axum"),
    any(feature = "access-log", feature = "cache", feature = "rate-limit")
))]
pub(crate) use self::bare_route::*;
