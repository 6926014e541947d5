//! The trusted proxies and their forwarding header.

use std::net::IpAddr;

use http::header::{FORWARDED, HeaderName};

use crate::core::{error::ConfigError, net::ip_network::IpNetwork};

/// Networks that cannot be reached from the Internet: RFC 1918, RFC 4193, and loopback addresses.
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
/// Each proxy appends the address of its peer to the right of a forwarded header. Entries further
/// left came with the request, and the client may have written them. So the header is read from the
/// right, only as far as the proxies are trusted. The leftmost entry is never used for its
/// position.
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
    /// No proxy: the peer is the client, and forwarded headers are not read.
    #[default]
    None,
    /// A number of proxies, including the peer: the client is the entry at that position from the
    /// right.
    ///
    /// Only correct if *every* request passes all of them: a client that reaches the second proxy
    /// directly controls the entry. With fewer entries the client is the leftmost entry, without
    /// entries the peer. `Hops(0)` is equal to `None`. At most 64 hops are followed.
    Hops(usize),
    /// Proxies in these networks: the client is the first entry from the right outside of them.
    ///
    /// If the peer is outside of them, it is the client. If all entries are inside, the client is
    /// the leftmost one. Use [`cidrs`](Self::cidrs), which also rejects lists that are mistakes.
    Cidrs(Vec<IpNetwork>),
}

impl TrustedProxies {
    /// Trusts the proxies in these networks, such as `10.0.0.0/8`, `fd00::/8` or `192.0.2.7`.
    ///
    /// # Errors
    ///
    /// Returns an error if one of them is not a network, if one contains all addresses (each client
    /// could then choose its address), or if the list is empty.
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
    /// These are `10.0.0.0/8`, `172.16.0.0/12`, `192.168.0.0/16` (RFC 1918), `fc00::/7` (RFC 4193),
    /// `127.0.0.0/8` and `::1`. Clients in these networks count as proxies too and can forge their
    /// addresses. If that matters, use [`cidrs`](Self::cidrs) with the networks of the proxies.
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

    /// Returns the client from the peer and the entries, which are ordered from the right.
    ///
    /// `None` is an entry that cannot be parsed. It ends the search.
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

/// The header that the trusted proxies write.
///
/// Only one header is read, since a proxy that writes one of them passes the others on unchanged.
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
    /// `X-Forwarded-For: 203.0.113.9, 10.0.0.7`, which most proxies write.
    #[default]
    XForwardedFor,
    /// `Forwarded: for=203.0.113.9, for="[2001:db8::1]:4711";proto=https` (RFC 7239, section 4).
    Forwarded,
    /// A header whose only value is the client's address: `X-Real-IP`, `CF-Connecting-IP`,
    /// `True-Client-IP`, `Fly-Client-IP`.
    ///
    /// It is read if the peer is a trusted proxy. The proxy at the edge must overwrite it, and each
    /// proxy behind that one must pass it on. With no valid address or several lines, the peer is
    /// the client.
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

    /// Returns the header that proxies write instead of this one, most probably.
    pub(super) fn other(&self) -> Self {
        match self {
            Self::XForwardedFor => Self::Forwarded,
            Self::Forwarded | Self::Single(_) => Self::XForwardedFor,
        }
    }
}

/// Converts a name. Names other than `X-Forwarded-For` and `Forwarded` are
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
        let problem = "where everybody is a proxy, each client chooses its own address";
        return Err(trusted_proxies_error(text, problem)
            .fix("name the proxies' networks, or count the proxies by `TrustedProxies::Hops`"));
    }
    Ok(network)
}

fn trusted_proxies_error(value: &str, problem: &str) -> ConfigError {
    ConfigError::new("trusted_proxies", value, problem)
}
