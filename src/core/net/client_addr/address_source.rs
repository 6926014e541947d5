//! The source of a client's address.

use std::{fmt, net::IpAddr, sync::Arc};

use http::HeaderMap;

use super::trusted_proxies::TrustedProxies;

/// The source of a client's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AddressSource {
    Proxies(TrustedProxies),
    Function(AddressFn),
}

/// An application function that returns the client's address.
#[derive(Clone)]
pub(super) struct AddressFn(Arc<AddressFunction>);

type AddressFunction = dyn Fn(IpAddr, &HeaderMap) -> Option<IpAddr> + Send + Sync;

impl AddressFn {
    pub(super) fn new<F>(function: F) -> Self
    where
        F: Fn(IpAddr, &HeaderMap) -> Option<IpAddr> + Send + Sync + 'static,
    {
        Self(Arc::new(function))
    }

    /// Returns the client's address, which is the peer's address by default.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        (self.0)(peer, headers).map_or(peer, |client| client.to_canonical())
    }
}

impl PartialEq for AddressFn {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for AddressFn {}

impl fmt::Debug for AddressFn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AddressFn")
    }
}
