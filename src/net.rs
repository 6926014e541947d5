//! The address of the client, from the peer and from the fields of trusted proxies.
//!
//! [`ClientAddrResolver`](crate::ClientAddrResolver) reads it.

pub use crate::core::net::{
    client_addr::{ForwardedHeader, MissingClientAddrError},
    peer_addr::{PeerAddrLayer, PeerAddrService},
};
