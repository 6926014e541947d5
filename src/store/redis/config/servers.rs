//! The addresses of a store's servers.

use std::fmt;

use super::{address::Address, credentials::Login, login::LoginOptions};
use crate::{
    core::error::ConfigError,
    store::redis::connection::{protocol::Protocol, tls::Tls},
};

#[derive(Clone)]
pub(super) enum Servers {
    Single(String),
    Sentinel {
        sentinels: Vec<String>,
        main: String,
    },
    Cluster(Vec<String>),
}

/// The servers to connect to.
#[derive(Clone, Debug)]
pub(crate) enum ServerRoute {
    Single(Address),
    Sentinel(Sentinels),
    Cluster(Vec<Address>),
}

/// The Sentinels that monitor the primary.
#[derive(Clone, Debug)]
pub(crate) struct Sentinels {
    pub(crate) addresses: Vec<Address>,
    pub(crate) main: String,
    /// The connection setup for the primary. A Sentinel returns the host and port.
    pub(crate) server: Address,
}

impl Servers {
    pub(super) fn route(
        &self,
        login: &LoginOptions,
        tls: &Tls,
    ) -> Result<ServerRoute, ConfigError> {
        match self {
            Self::Single(url) => {
                let address = Address::parse(url, tls)?;
                Ok(ServerRoute::Single(login.applied_to(address)))
            }
            Self::Sentinel { sentinels, main } => {
                let addresses = parse_all(sentinels, tls)?;
                if main.is_empty() {
                    return Err(ConfigError::new(
                        "sentinel",
                        "",
                        "the name of the primary is empty",
                    )
                    .fix("use the name from `sentinel monitor`"));
                }
                // The credentials and the database of a URL apply to the Sentinel only.
                let server = addresses[0].clone().with_login(Login::default());
                let server = login.applied_to(server.with_database(0));
                let sentinels = addresses.into_iter();
                Ok(ServerRoute::Sentinel(Sentinels {
                    addresses: sentinels.map(|it| login.applied_to_sentinel(it)).collect(),
                    main: main.clone(),
                    server,
                }))
            }
            Self::Cluster(nodes) => {
                let nodes = parse_all(nodes, tls)?.into_iter();
                let nodes: Vec<_> = nodes.map(|node| login.applied_to(node)).collect();
                match nodes.iter().find(|node| node.database() != 0) {
                    Some(node) => Err(ConfigError::new(
                        "database",
                        node.database(),
                        "a Cluster has database 0 only",
                    )
                    .fix("drop the database")),
                    None => Ok(ServerRoute::Cluster(nodes)),
                }
            }
        }
    }
}

/// Parses the URLs of several servers. There must be at least one URL, and none can be a socket
/// path.
fn parse_all(urls: &[String], tls: &Tls) -> Result<Vec<Address>, ConfigError> {
    let addresses = urls
        .iter()
        .map(|url| Address::parse(url, tls))
        .collect::<Result<Vec<_>, _>>()?;
    let error = |problem: &str| {
        ConfigError::new("redis url", urls.len(), problem.to_owned())
            .fix("pass the URL of at least one server, such as `redis://10.0.0.1:6379`")
    };
    if addresses.is_empty() {
        return Err(error("it contains no server"));
    }
    if addresses.iter().any(|address| address.host().is_none()) {
        return Err(error(
            "a Sentinel or a node of a Cluster cannot be a socket path",
        ));
    }
    // The protocol also applies to servers that these servers name.
    let protocol = Protocol::global(addresses.iter().map(Address::protocol))?;
    let addresses = addresses.into_iter();
    Ok(addresses.map(|it| it.with_protocol(protocol)).collect())
}

impl fmt::Debug for Servers {
    /// Formats the hosts and ports, with `?` for a URL that cannot be parsed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |url: &String| Address::place_of(url).unwrap_or_else(|| "?".to_owned());
        let places = |urls: &[String]| urls.iter().map(place).collect::<Vec<_>>();
        match self {
            Self::Single(url) => write!(f, "Single({})", place(url)),
            Self::Sentinel { sentinels, main } => {
                write!(f, "Sentinel({main:?}, {:?})", places(sentinels))
            }
            Self::Cluster(nodes) => write!(f, "Cluster({:?})", places(nodes)),
        }
    }
}
