//! Types and functions that all layers share.

pub(crate) mod allowance;
pub(crate) mod audit;
pub(crate) mod crypto;
pub(crate) mod error;
pub(crate) mod framework;
pub(crate) mod http;
pub(crate) mod identity;
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
pub(crate) mod notice;
pub(crate) mod record;
pub(crate) mod runtime;
pub(crate) mod store_api;
pub(crate) mod time;
#[cfg(any(
    feature = "access-log",
    feature = "api-key",
    feature = "rate-limit",
    feature = "redis"
))]
mod undone;
