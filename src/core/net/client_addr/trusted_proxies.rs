//! The proxies that are trusted, and the header that they write.

use std::net::IpAddr;

use http::header::{FORWARDED, HeaderName};

use crate::core::{error::ConfigError, net::ip_network::IpNetwork};

/// The networks that nobody reaches from the Internet: RFC 1918, RFC 4193, and the host itself.
const PRIVATE_NETWORKS: [&str; 6] = [
    "127.0.0.0/8",
    "::1/128",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "fc00::/7",
];

pub(super) static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Which proxies are believed when they say whom they forward for.
///
/// Each proxy adds the address that it was called from on the right of a forwarded header; all that
/// stands further left came with the request, and the client may have written it. So the header is
/// read from the right, and only as far as the proxies are trusted. Never is the leftmost entry
/// taken because it is the leftmost.
///
/// ```
/// use portcullis::TrustedProxies;
///
/// # fn main() -> Result<(), portcullis::ConfigError> {
/// // Nothing in front: the peer is the client.
/// let direct = TrustedProxies::None;
///
/// // One load balancer in front, and no way around it.
/// let behind_one = TrustedProxies::Hops(1);
///
/// // Proxies that are known by where they stand; a client that comes past them is seen as itself.
/// let behind_known = TrustedProxies::cidrs(["10.0.0.0/8", "fd00::/8"])?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TrustedProxies {
    /// Nobody: the peer is the client, and forwarded headers are not read.
    #[default]
    None,
    /// As many proxies as this, the peer among them: the client is the entry that far from the right.
    ///
    /// Only right if *every* request passes all of them: who can reach the second proxy past the
    /// first writes the entry that is taken. With fewer entries the leftmost is the client, with
    /// none the peer. `Hops(0)` is the same as `None`; more than 64 hops are not followed.
    Hops(usize),
    /// The proxies in these networks: the client is the first from the right that is in none of them.
    ///
    /// If the peer is in none, it is the client. If all are, the client is the leftmost. Made by
    /// [`cidrs`](Self::cidrs), which also refuses lists that can only be a mistake.
    Cidrs(Vec<IpNetwork>),
}

impl TrustedProxies {
    /// Trusts the proxies in these networks, such as `10.0.0.0/8`, `fd00::/8` or `192.0.2.7`.
    ///
    /// # Errors
    ///
    /// Returns an error if one of them is not a network, if one holds every address (each client
    /// would choose its own), or if there are none at all.
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
            return Err(trusted_proxies_error("", "an empty list trusts nobody")
                .fix("name the proxies' networks, or say `TrustedProxies::None`"));
        }
        Ok(Self::Cidrs(networks))
    }

    /// Trusts the proxies in the private networks, and those on this host.
    ///
    /// These are `10.0.0.0/8`, `172.16.0.0/12`, `192.168.0.0/16` (RFC 1918), `fc00::/7` (RFC 4193),
    /// `127.0.0.0/8` and `::1`. A client that calls from one of them is taken for a proxy too, and
    /// may write its own address: where that matters, name the proxies by [`cidrs`](Self::cidrs).
    pub fn private_networks() -> Self {
        Self::cidrs(PRIVATE_NETWORKS).expect("the private networks are networks")
    }

    /// Finds the client among the peer and the entries, which come from the right.
    ///
    /// An entry that is `None` does not parse: the walk ends before it.
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

/// The header in which the trusted proxies say whom they forward for.
///
/// Only one is ever read: a proxy that writes the one passes the other on as the client sent it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ForwardedHeader {
    /// `X-Forwarded-For: 203.0.113.9, 10.0.0.7`, which nearly all proxies write.
    #[default]
    XForwardedFor,
    /// `Forwarded: for=203.0.113.9, for="[2001:db8::1]:4711";proto=https` (RFC 7239, section 4).
    Forwarded,
}

impl ForwardedHeader {
    pub(super) fn name(self) -> &'static HeaderName {
        match self {
            Self::XForwardedFor => &X_FORWARDED_FOR,
            Self::Forwarded => &FORWARDED,
        }
    }

    pub(super) fn other(self) -> Self {
        match self {
            Self::XForwardedFor => Self::Forwarded,
            Self::Forwarded => Self::XForwardedFor,
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
