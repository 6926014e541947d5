//! Networks of IP addresses.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::{IpNet, Ipv4Net};

use crate::core::error::ConfigError;

/// A network of IP addresses, written as `10.0.0.0/8`, `2001:db8::/32`, or a single address.
///
/// ```
/// use portcullis::IpNetwork;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let office: IpNetwork = "203.0.113.0/24".parse()?;
/// assert!(office.contains("203.0.113.9".parse()?));
/// assert!(office.contains("::ffff:203.0.113.9".parse()?));
/// assert!(!office.contains("198.51.100.1".parse()?));
///
/// let mistaken = "203.0.113.9/24".parse::<IpNetwork>();
/// assert!(mistaken.is_err(), "one host, or its whole network?");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpNetwork(IpNet);

impl IpNetwork {
    /// Returns the network's first address.
    pub fn address(&self) -> IpAddr {
        self.0.network()
    }

    /// Returns the length of the network prefix in bits.
    pub fn prefix_len(&self) -> u8 {
        self.0.prefix_len()
    }

    /// Returns `true` if the address is in the network.
    ///
    /// In both the network and the argument, an IPv4-mapped IPv6 address (`::ffff:192.0.2.1`)
    /// counts as an IPv4 address. An IPv6 network therefore contains no such address. Networks
    /// within `::ffff:0:0/96` count as IPv4 networks.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.contains(&ip.to_canonical())
    }

    /// Returns `true` if every address in the other network is also in this network.
    #[cfg_attr(
        not(feature = "api-key"),
        allow(dead_code, reason = "networks that a key is bound to are compared")
    )]
    pub(crate) fn contains_network(&self, other: &Self) -> bool {
        self.0.contains(&other.0)
    }

    /// Returns the network with this prefix length that contains an address.
    pub(crate) fn around(ip: IpAddr, prefix_len: u8) -> Self {
        Self(IpNet::new_assert(ip, prefix_len).trunc())
    }

    /// Parses a network for the option that an error should name.
    pub(crate) fn parse(option: &'static str, text: &str) -> Result<Self, ConfigError> {
        let error = |problem| ConfigError::new(option, text, problem);
        let network = match text.parse::<IpAddr>() {
            Ok(ip) => IpNet::from(ip),
            Err(_) => text.parse().map_err(|_| {
                error("it is not a network").fix("write it as 10.0.0.0/8 or fd00::/8")
            })?,
        };
        if network.trunc() != network {
            let fix = format!("write {}, or {} alone", network.trunc(), network.addr());
            return Err(error("the address has bits to the right of the prefix").fix(fix));
        }
        Ok(Self(fold(network)))
    }
}

impl FromStr for IpNetwork {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse("network", text)
    }
}

impl fmt::Display for IpNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Converts a network of IPv4-mapped addresses to the IPv4 network.
fn fold(network: IpNet) -> IpNet {
    match (network.addr().to_canonical(), network.prefix_len()) {
        (IpAddr::V4(ip), bits @ 96..) => IpNet::V4(Ipv4Net::new_assert(ip, bits - 96)),
        _ => network,
    }
}
