//! Conversions into client-address settings.

use std::{net::SocketAddr, str::FromStr};

use super::client_addr::{ClientAddrResolver, PeerAddr, TrustedProxies};
use crate::core::error::ConfigError;

impl From<SocketAddr> for PeerAddr {
    fn from(addr: SocketAddr) -> Self {
        Self(addr)
    }
}

impl From<TrustedProxies> for ClientAddrResolver {
    fn from(proxies: TrustedProxies) -> Self {
        Self::new(proxies)
    }
}

/// Parses `none`, `private`, `hops:2`, or networks separated by commas, such as
/// `10.0.0.0/8, 192.0.2.7`.
///
/// # Errors
///
/// Returns an error if the text has none of these forms, or if [`TrustedProxies::cidrs`] rejects
/// the networks.
impl FromStr for TrustedProxies {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let text = text.trim();
        if let Some(hops) = text.strip_prefix("hops:") {
            return hops.trim().parse().map(Self::Hops).map_err(|_| {
                ConfigError::new(
                    "trusted proxies",
                    text,
                    "the number of hops is not an integer",
                )
                .fix("write the number of proxies, such as `hops:1`")
            });
        }
        match text {
            "none" => Ok(Self::None),
            "private" => Ok(Self::private_networks()),
            networks => Self::cidrs(networks.split(',').map(str::trim)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trusted_proxies_parse_from_text() {
        let parse = |text: &str| text.parse::<TrustedProxies>();
        assert!(matches!(parse(" none "), Ok(TrustedProxies::None)));
        assert!(matches!(parse("hops:2"), Ok(TrustedProxies::Hops(2))));
        assert!(
            matches!(parse("private"), Ok(TrustedProxies::Cidrs(networks)) if networks.len() == 6)
        );
        let networks = parse("10.0.0.0/8, 192.0.2.7").unwrap();
        assert!(matches!(networks, TrustedProxies::Cidrs(networks) if networks.len() == 2));
        for wrong in ["", "hops:", "hops:-1", "all", "10.0.0.0/8,", "0.0.0.0/0"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
