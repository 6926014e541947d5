//! Checks the order of the layers with the first requests.

#[cfg(any(feature = "api-key", feature = "cache"))]
mod identity;
#[cfg(feature = "access-log")]
mod kind;
#[cfg(feature = "rate-limit")]
mod last;
mod layer_order;
#[cfg(any(feature = "api-key", feature = "cache", feature = "rate-limit"))]
mod reading;
#[cfg(any(feature = "cache", feature = "rate-limit"))]
mod unidentified;

#[cfg(any(feature = "api-key", feature = "cache"))]
pub(crate) use self::identity::identified;
#[cfg(feature = "access-log")]
pub(crate) use self::layer_order::PassedLayer;
pub(crate) use self::layer_order::{LayerKind, Placed, Placement, pass, passed};
#[cfg(any(feature = "cache", feature = "rate-limit"))]
pub(crate) use self::unidentified::pass_unidentified;
