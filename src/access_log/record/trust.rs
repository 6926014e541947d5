//! Who is believed when it names a request or a trace.

use std::net::IpAddr;

use crate::core::net::ip_network::IpNetwork;

/// Who is believed when a request comes with a name or a trace of its own.
///
/// ```
/// use portcullis::access_log::Trust;
///
/// let gateway = Trust::Peers(vec!["10.0.0.0/8".parse()?]);
/// # let _ = gateway;
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trust {
    /// Nobody.
    #[default]
    Nobody,
    /// Who is connected from one of these networks: one's own proxies.
    Peers(Vec<IpNetwork>),
    /// Everybody: a client may then give one name to many requests, or another client's trace.
    Everybody,
}

impl Trust {
    /// Returns whether this peer is believed. One that is not known is not, unless all are.
    pub(super) fn believes(&self, peer: Option<IpAddr>) -> bool {
        match self {
            Self::Nobody => false,
            Self::Peers(networks) => {
                peer.is_some_and(|peer| networks.iter().any(|network| network.contains(peer)))
            }
            Self::Everybody => true,
        }
    }
}
