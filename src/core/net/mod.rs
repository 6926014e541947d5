//! Addresses of peers and clients.

pub(crate) mod client_addr;
mod conversions;
pub(crate) mod forwarded;
pub(crate) mod ip_network;
pub(crate) mod peer_addr;
