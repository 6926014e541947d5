//! Types and functions shared by all layers.

pub(crate) mod allowance;
pub(crate) mod audit;
pub(crate) mod crypto;
pub(crate) mod error;
mod field_value;
pub(crate) mod framework;
pub(crate) mod http;
pub(crate) mod identity;
#[cfg(any(
    feature = "access-log",
    feature = "api-key",
    feature = "cache",
    feature = "rate-limit"
))]
pub(crate) mod inherited;
// The gate, which sets it, needs all layers.
#[cfg_attr(
    not(all(
        feature = "access-log",
        feature = "api-key",
        feature = "cache",
        feature = "rate-limit"
    )),
    allow(dead_code)
)]
#[cfg(any(feature = "access-log", feature = "api-key", feature = "cache"))]
pub(crate) mod inherited_clock;
pub(crate) mod json;
#[cfg(any(
    feature = "access-log",
    feature = "api-key",
    feature = "cache",
    feature = "rate-limit"
))]
pub(crate) mod layer_order;
#[cfg(feature = "rate-limit")]
pub(crate) mod live;
pub(crate) mod net;
#[cfg(any(
    feature = "access-log",
    feature = "api-key",
    feature = "cache",
    feature = "rate-limit"
))]
pub(crate) mod not_built;
pub(crate) mod notice;
pub(crate) mod record;
pub(crate) mod runtime;
pub(crate) mod service_accessors;
#[cfg_attr(not(all(feature = "api-key", feature = "cache")), allow(dead_code))]
#[cfg(any(feature = "api-key", feature = "cache"))]
pub(crate) mod single_flight;
pub(crate) mod store_api;
pub(crate) mod time;
#[cfg(any(
    feature = "access-log",
    feature = "api-key",
    feature = "rate-limit",
    feature = "redis"
))]
mod undone;
// Each layer and store uses only some of its methods.
#[cfg_attr(
    not(all(
        feature = "api-key",
        feature = "cache",
        feature = "rate-limit",
        feature = "redis"
    )),
    allow(dead_code)
)]
#[cfg(any(feature = "api-key", feature = "cache", feature = "redis"))]
pub(crate) mod ttl_map;
