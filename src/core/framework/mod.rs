//! What a web framework leaves in a request's extensions; nothing, without the framework's feature.

#[cfg(feature = "axum")]
mod axum;
#[cfg(not(feature = "axum"))]
mod bare;

#[cfg(feature = "axum")]
pub(crate) use self::axum::*;
#[cfg(not(feature = "axum"))]
pub(crate) use self::bare::*;
