//! Trust in request ids and trace contexts that clients send.

use std::net::IpAddr;

use crate::core::net::ip_network::IpNetwork;

/// The peers whose request ids or trace contexts are trusted.
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
    /// No peer is trusted.
    #[default]
    Nobody,
    /// Peers in these networks are trusted, such as the application's own proxies.
    Peers(Vec<IpNetwork>),
    /// All peers are trusted. A client can then use one id for many requests or use another
    /// client's trace.
    Everybody,
}

impl Trust {
    /// Returns `true` if this peer is trusted. An unknown peer is trusted only by
    /// [`Self::Everybody`].
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
