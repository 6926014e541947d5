//! The implementation without a framework, in which only the application inserts extensions.

use std::net::SocketAddr;

use http::{Extensions, Uri};

/// `false`: axum's `ConnectInfo` is not read.
pub(crate) const READS_CONNECT_INFO: bool = false;

/// Returns `None`, because no framework inserts the peer address.
pub(crate) fn peer_addr(_extensions: &Extensions) -> Option<&SocketAddr> {
    None
}

/// Returns `None`, because no framework stores the original URI.
#[cfg_attr(
    not(feature = "cache"),
    allow(dead_code, reason = "the cache alone reads it")
)]
pub(crate) fn original_uri(_extensions: &Extensions) -> Option<&Uri> {
    None
}

/// Returns `None`, because no framework stores the original URI.
#[cfg_attr(
    not(feature = "api-key"),
    allow(dead_code, reason = "a key in the query alone is removed")
)]
pub(crate) fn original_uri_mut(_extensions: &mut Extensions) -> Option<&mut Uri> {
    None
}
