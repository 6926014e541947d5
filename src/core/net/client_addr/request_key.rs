//! The store key of a request's client, for limits by client address.

use std::net::SocketAddr;

use http::{Extensions, HeaderMap};

use super::{
    address_source::AddressSource,
    client_addr::key_of_ipv4,
    resolver::{ClientAddrResolver, peer_addr},
    trusted_proxies::TrustedProxies,
};
use crate::core::store_api::store_key::{KeySpace, StoreKey};

impl ClientAddrResolver {
    /// Returns the key of the client that [`resolve`](Self::resolve) returns, without emitting
    /// notices. Used by callers that also resolve each new client.
    #[inline(always)]
    pub(crate) fn store_key(
        &self,
        space: &KeySpace,
        extensions: &Extensions,
        headers: &HeaderMap,
    ) -> Option<StoreKey> {
        let peer = peer_addr(extensions)?;
        if let (SocketAddr::V4(peer), AddressSource::Proxies(TrustedProxies::None)) =
            (peer, &self.source)
        {
            return Some(key_of_ipv4(*peer.ip(), space));
        }
        let client = self.client(peer.ip().to_canonical(), headers);
        Some(client.store_key(space))
    }
}
