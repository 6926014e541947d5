//! The address of a client and its store key.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use crate::core::{
    net::ip_network::IpNetwork,
    store_api::store_key::{KeySpace, StoreKey},
};

/// The default prefix length that identifies an IPv6 client.
pub(super) const DEFAULT_IPV6_PREFIX: u8 = 56;

/// The address of a client, together with the prefix length that identifies the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddr {
    pub(super) ip: IpAddr,
    pub(super) ipv6_prefix: u8,
}

impl ClientAddr {
    /// Returns the IP address. An IPv4-mapped IPv6 address is returned as IPv4.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Returns the network that counts as one client: a single IPv4 address or an IPv6 prefix.
    pub fn network(&self) -> IpNetwork {
        IpNetwork::around(self.ip, self.prefix())
    }

    /// Returns the network as bytes. The bytes are equal for all addresses of one client and differ
    /// between clients.
    #[inline]
    pub fn partition_bytes(&self) -> [u8; 17] {
        // The first byte distinguishes the address families, and resolvers with different prefixes:
        // no IPv6 prefix is as short as 4.
        let mut bytes = [0; 17];
        match self.ip {
            IpAddr::V4(ip) => {
                bytes[0] = 4;
                bytes[1..5].copy_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                let host_bits = 128 - u32::from(self.ipv6_prefix);
                let network = u128::MAX.checked_shl(host_bits).unwrap_or(0) & u128::from(ip);
                bytes[0] = self.ipv6_prefix;
                bytes[1..].copy_from_slice(&network.to_be_bytes());
            }
        }
        bytes
    }

    /// Returns the key of this client in a key space.
    #[inline]
    pub fn store_key(&self, space: &KeySpace) -> StoreKey {
        match self.ip {
            IpAddr::V4(ip) => key_of_ipv4(ip, space),
            IpAddr::V6(_) => {
                // The bits after the prefix are zero, and the first byte contains the prefix
                // length.
                let named = 1 + usize::from(self.ipv6_prefix.div_ceil(8));
                space.short_key(&self.partition_bytes()[..named])
            }
        }
    }

    fn prefix(&self) -> u8 {
        match self.ip {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => self.ipv6_prefix,
        }
    }
}

/// Converts an address from any source. An IPv6 client is identified by its /56.
impl From<IpAddr> for ClientAddr {
    fn from(ip: IpAddr) -> Self {
        Self {
            ip: ip.to_canonical(),
            ipv6_prefix: DEFAULT_IPV6_PREFIX,
        }
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip.fmt(f)
    }
}

#[inline]
pub(super) fn key_of_ipv4(ip: Ipv4Addr, space: &KeySpace) -> StoreKey {
    let [a, b, c, d] = ip.octets();
    space.short_key(&[4, a, b, c, d])
}
