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

/// Where to go.
#[derive(Clone, Debug)]
pub(crate) enum ServerRoute {
    Single(Address),
    Sentinel(Sentinels),
    Cluster(Vec<Address>),
}

/// Who knows where the main server is.
#[derive(Clone, Debug)]
pub(crate) struct Sentinels {
    pub(crate) addresses: Vec<Address>,
    pub(crate) main: String,
    /// How the server is spoken to, once it is known where it is.
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
                    return Err(ConfigError::new("sentinel", "", "no main server is named")
                        .fix("give the name that `sentinel monitor` was given"));
                }
                // The credentials and the database of a URL are the Sentinel's.
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
                        "a Cluster has database 0 alone",
                    )
                    .fix("leave the database out")),
                    None => Ok(ServerRoute::Cluster(nodes)),
                }
            }
        }
    }
}

/// Returns the addresses of several servers, at least one, all reached over the network.
fn parse_all(urls: &[String], tls: &Tls) -> Result<Vec<Address>, ConfigError> {
    let addresses = urls
        .iter()
        .map(|url| Address::parse(url, tls))
        .collect::<Result<Vec<_>, _>>()?;
    let error = |problem: &str| {
        ConfigError::new("redis url", urls.len(), problem.to_owned())
            .fix("give the URLs of some of the servers, such as `redis://10.0.0.1:6379`")
    };
    if addresses.is_empty() {
        return Err(error("no server is named"));
    }
    if addresses.iter().any(|address| address.host().is_none()) {
        return Err(error("several servers are not found by a socket's path"));
    }
    // A server that another one names is spoken to in the same version.
    let protocol = Protocol::global(addresses.iter().map(Address::protocol))?;
    let addresses = addresses.into_iter();
    Ok(addresses.map(|it| it.with_protocol(protocol)).collect())
}

impl fmt::Debug for Servers {
    /// Writes where the servers are; of a URL that cannot be read, nothing.
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
