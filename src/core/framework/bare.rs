//! No framework: the extensions hold only what the user puts there.

use std::{
    any::{Any, TypeId},
    net::SocketAddr,
};

use http::{Extensions, Uri};

/// Returns nothing: no framework has said who is connected.
pub(crate) fn peer_addr(_extensions: &Extensions) -> Option<&SocketAddr> {
    None
}

/// Returns nothing: no framework has kept a URI.
#[cfg_attr(not(feature = "cache"), allow(dead_code))]
pub(crate) fn original_uri(_extensions: &Extensions) -> Option<&Uri> {
    None
}

/// Returns nothing: no framework has kept a URI.
#[cfg_attr(not(feature = "api-key"), allow(dead_code))]
pub(crate) fn original_uri_mut(_extensions: &mut Extensions) -> Option<&mut Uri> {
    None
}

/// Returns nothing: no framework has matched a route.
#[cfg_attr(
    not(any(feature = "access-log", feature = "cache", feature = "rate-limit")),
    allow(dead_code)
)]
pub(crate) fn matched_path(_extensions: &Extensions) -> Option<&str> {
    None
}

/// Returns nothing: no framework has a body of its own.
#[cfg_attr(not(feature = "cache"), allow(dead_code))]
pub(crate) fn body_type() -> Option<TypeId> {
    None
}

/// Returns nothing: no framework has a body of its own.
#[cfg_attr(not(feature = "cache"), allow(dead_code))]
pub(crate) fn empty_body() -> Option<Box<dyn Any>> {
    None
}
