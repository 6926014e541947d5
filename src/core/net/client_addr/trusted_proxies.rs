//! The trusted proxies and the forwarding header that they write.

use std::net::IpAddr;

use http::header::{FORWARDED, HeaderName};

use crate::core::{error::ConfigError, net::ip_network::IpNetwork};

/// Networks that cannot be reached from the Internet: RFC 1918, RFC 4193, and loopback networks.
const PRIVATE_NETWORKS: [&str; 6] = [
    "127.0.0.0/8",
    "::1/128",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "fc00::/7",
];

pub(super) static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The proxies whose forwarded headers are trusted.
///
/// Each proxy appends the address of its peer to the right of a forwarded header. The entries
/// further left were already in the request that the proxy received, so the client may have written
/// them. The header is therefore read from the right, and only as far as the proxies are trusted.
/// An entry is never used merely because it is the leftmost entry.
///
/// ```
/// use portcullis::TrustedProxies;
///
/// # fn main() -> Result<(), portcullis::ConfigError> {
/// // No proxy: the peer is the client.
/// let direct = TrustedProxies::None;
///
/// // One load balancer that all requests pass.
/// let behind_one = TrustedProxies::Hops(1);
///
/// // Proxies in known networks; a client that bypasses them is identified by its own address.
/// let behind_known = TrustedProxies::cidrs(["10.0.0.0/8", "fd00::/8"])?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TrustedProxies {
    /// Trusts no proxy. The peer is the client, and forwarded headers are not read.
    #[default]
    None,
    /// Trusts this number of proxies, including the peer. The client is the entry at that position,
    /// counted from the right.
    ///
    /// This mode is correct only if *every* request passes through all of these proxies. A client
    /// that connects directly to the second proxy can forge its address. If there are fewer
    /// entries, the client is the leftmost entry. If there are no entries, the client is the peer.
    /// `Hops(0)` is equivalent to `None`. At most 64 hops are followed.
    Hops(usize),
    /// Trusts the proxies in these networks. The client is the first entry from the right that is
    /// outside these networks.
    ///
    /// If the peer is outside these networks, the peer is the client. If all entries are inside
    /// these networks, the client is the leftmost entry. Prefer [`cidrs`](Self::cidrs), which
    /// rejects lists that are likely mistakes.
    Cidrs(Vec<IpNetwork>),
}

impl TrustedProxies {
    /// Trusts the proxies in these networks, such as `10.0.0.0/8`, `fd00::/8` or `192.0.2.7`.
    ///
    /// # Errors
    ///
    /// Returns an error if an item is not a network, if a network contains all addresses, or if the
    /// list is empty. With a network that contains all addresses, each client could choose its own
    /// address.
    pub fn cidrs<I>(networks: I) -> Result<Self, ConfigError>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let networks = networks
            .into_iter()
            .map(|network| trusted_network(network.as_ref()))
            .collect::<Result<Vec<_>, _>>()?;
        if networks.is_empty() {
            return Err(trusted_proxies_error("", "the list is empty")
                .fix("list the networks of the proxies, or use `TrustedProxies::None`"));
        }
        Ok(Self::Cidrs(networks))
    }

    /// Trusts proxies in private networks and on this host.
    ///
    /// The private networks are `10.0.0.0/8`, `172.16.0.0/12`, `192.168.0.0/16` (RFC 1918) and
    /// `fc00::/7` (RFC 4193). The networks of this host are `127.0.0.0/8` and `::1`. Clients in
    /// these networks also count as proxies and can therefore forge their addresses. If you do not
    /// trust those clients, call [`cidrs`](Self::cidrs) with the networks of the proxies.
    pub fn private_networks() -> Self {
        Self::cidrs(PRIVATE_NETWORKS).expect("the private networks are networks")
    }

    /// Returns `true` if the peer is a proxy whose forwarded header is read.
    pub(super) fn contains(&self, peer: IpAddr) -> bool {
        match self {
            Self::None | Self::Hops(0) => false,
            Self::Hops(_) => true,
            Self::Cidrs(networks) => networks.iter().any(|network| network.contains(peer)),
        }
    }

    /// Determines the client from the peer and the entries. The entries are ordered from the right.
    ///
    /// An entry that cannot be parsed is `None` and ends the search.
    pub(super) fn client(
        &self,
        peer: IpAddr,
        entries: impl Iterator<Item = Option<IpAddr>>,
    ) -> IpAddr {
        let mut entries = entries.map_while(|entry| entry);
        match self {
            Self::None => peer,
            Self::Hops(hops) => entries.take(*hops).last().unwrap_or(peer),
            Self::Cidrs(networks) => {
                let is_proxy = |ip| networks.iter().any(|network| network.contains(ip));
                let mut client = peer;
                while is_proxy(client) {
                    let Some(further) = entries.next() else { break };
                    client = further;
                }
                client
            }
        }
    }
}

/// The forwarding header that the trusted proxies write.
///
/// Only one header is read, because a proxy that writes one forwarding header passes the others on
/// unchanged.
///
/// ```
/// use http::HeaderName;
/// use portcullis::{ClientAddrResolver, TrustedProxies};
///
/// # fn main() -> Result<(), portcullis::ConfigError> {
/// // A content delivery network that sends the client's address in a field of its own.
/// let proxies = TrustedProxies::cidrs(["173.245.48.0/20", "103.21.244.0/22"])?;
/// let resolver = ClientAddrResolver::new(proxies)
///     .forwarded_header(HeaderName::from_static("cf-connecting-ip"));
/// # let _ = resolver;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ForwardedHeader {
    /// `X-Forwarded-For: 203.0.113.9, 10.0.0.7`. Most proxies write this header.
    #[default]
    XForwardedFor,
    /// `Forwarded: for=203.0.113.9, for="[2001:db8::1]:4711";proto=https` (RFC 7239, section 4).
    Forwarded,
    /// A header whose only value is the client's address, such as `X-Real-IP`, `CF-Connecting-IP`,
    /// `True-Client-IP` or `Fly-Client-IP`.
    ///
    /// The header is read if the peer is a trusted proxy. The proxy at the edge must overwrite the
    /// header, and each proxy behind that proxy must pass the header on. If the header contains no
    /// valid address or has several lines, the peer is the client.
    Single(HeaderName),
}

impl ForwardedHeader {
    pub(super) fn name(&self) -> &HeaderName {
        match self {
            Self::XForwardedFor => &X_FORWARDED_FOR,
            Self::Forwarded => &FORWARDED,
            Self::Single(name) => name,
        }
    }

    /// Returns the header that proxies most likely write instead of this one.
    pub(super) fn other(&self) -> Self {
        match self {
            Self::XForwardedFor => Self::Forwarded,
            Self::Forwarded | Self::Single(_) => Self::XForwardedFor,
        }
    }
}

/// Converts a header name. Names other than `X-Forwarded-For` and `Forwarded` become
/// [`Single`](ForwardedHeader::Single).
impl From<HeaderName> for ForwardedHeader {
    fn from(name: HeaderName) -> Self {
        match name {
            name if name == X_FORWARDED_FOR => Self::XForwardedFor,
            name if name == FORWARDED => Self::Forwarded,
            name => Self::Single(name),
        }
    }
}

fn trusted_network(text: &str) -> Result<IpNetwork, ConfigError> {
    let network = IpNetwork::parse("trusted_proxies", text)?;
    if network.prefix_len() == 0 {
        let problem = "a network of all addresses lets each client choose its own address";
        return Err(trusted_proxies_error(text, problem)
            .fix("list the networks of the proxies, or use `TrustedProxies::Hops`"));
    }
    Ok(network)
}

fn trusted_proxies_error(value: &str, problem: &str) -> ConfigError {
    ConfigError::new("trusted_proxies", value, problem)
}
