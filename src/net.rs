//! Client addresses, determined from the peer address and the headers of trusted proxies.
//!
//! [`ClientAddrResolver`](crate::ClientAddrResolver) determines the address.

pub use crate::core::net::{
    client_addr::{ForwardedHeader, MissingClientAddrError},
    peer_addr::{PeerAddrLayer, PeerAddrService},
};
