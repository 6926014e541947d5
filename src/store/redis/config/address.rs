//! The address of a server, and functions that open connections to it.

use std::{borrow::Cow, fmt, time::Duration};

use redis::{Cmd, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, RedisResult};
use tokio::net::{TcpStream, UnixStream};
use zeroize::Zeroizing;

use super::credentials::{Login, RedisCredentials};
use crate::{
    core::error::ConfigError,
    store::redis::connection::{
        error::{Fault, Liveness},
        ground::Ground,
        protocol::Protocol,
        tls::{Connector, Tls},
        wire::Wire,
    },
};

/// The address of a server, and the setup of connections to that server.
#[derive(Clone)]
pub(crate) struct Address {
    place: AddressKind,
    login: Login,
    database: i64,
    protocol: Protocol,
    /// The connector that encrypts network connections.
    tls: Option<Connector>,
}

#[derive(Clone, PartialEq, Eq)]
enum AddressKind {
    Tcp { host: String, port: u16 },
    Unix(std::path::PathBuf),
}

impl Address {
    /// Parses an address from a URL such as `redis://user:password@host:6379/0`.
    pub(crate) fn parse(url: &str, tls: &Tls) -> Result<Self, ConfigError> {
        let (url, is_secret) = without_tls(url)?;
        let protocol = Protocol::from_url(&url)?;
        let (place, settings) = read(&url)?;
        let tls = if is_secret {
            Some(tls.connector()?)
        } else {
            None
        };
        Ok(Self {
            place,
            login: Login::Fixed {
                username: settings.username().map(ToOwned::to_owned),
                password: settings.password().map(|it| Zeroizing::new(it.to_owned())),
            },
            database: settings.db(),
            protocol,
            tls,
        })
    }

    /// Returns the host and the port of a URL, without the credentials.
    pub(super) fn place_of(url: &str) -> Option<String> {
        let (url, _) = without_tls(url).ok()?;
        Some(read(&url).ok()?.0.to_string())
    }

    /// Returns the address of another server of the same kind, with the same connection setup.
    pub(crate) fn at(&self, host: &str, port: u16) -> Self {
        Self {
            place: AddressKind::Tcp {
                host: host.to_owned(),
                port,
            },
            ..self.clone()
        }
    }

    /// Returns the same address with other credentials.
    pub(super) fn with_login(mut self, login: Login) -> Self {
        self.login = login;
        self
    }

    /// Returns the same address with another database.
    pub(super) fn with_database(mut self, database: i64) -> Self {
        self.database = database;
        self
    }

    /// Returns the same address with another protocol version.
    pub(super) fn with_protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    pub(crate) fn login(&self) -> &Login {
        &self.login
    }

    pub(crate) fn protocol(&self) -> Protocol {
        self.protocol
    }

    pub(crate) fn is_same_place(&self, other: &Self) -> bool {
        self.place == other.place
    }

    pub(crate) fn host(&self) -> Option<&str> {
        match &self.place {
            AddressKind::Tcp { host, .. } => Some(host),
            AddressKind::Unix(_) => None,
        }
    }

    pub(crate) fn database(&self) -> i64 {
        self.database
    }

    /// Connects, authenticates, and sends `probe` to check that the server accepts commands.
    ///
    /// The credentials provider has its own timeout. If the server rejects the credentials, or if
    /// new credentials were announced during the attempt, the provider is called and the connection
    /// is opened again.
    ///
    /// # Errors
    ///
    /// Returns an error if the provider fails, or if the other steps fail or exceed the timeout.
    pub(crate) async fn open(
        &self,
        ground: &Ground,
        timeout: Duration,
        probe: Option<&Cmd>,
    ) -> Result<Wire, Fault> {
        let renewals = ground.renewals();
        let opened = self.open_once(ground, timeout, probe).await;
        let is_outdated = match &opened {
            Ok(_) => ground.renewals() != renewals,
            Err(fault) => fault.verdict == Liveness::Denied,
        };
        if is_outdated && self.login.is_provided() {
            return self.open_once(ground, timeout, probe).await;
        }
        opened
    }

    async fn open_once(
        &self,
        ground: &Ground,
        timeout: Duration,
        probe: Option<&Cmd>,
    ) -> Result<Wire, Fault> {
        let credentials = self.login.credentials(ground).await?;
        let opened = self.open_as(credentials.as_ref(), probe);
        let opened = ground.in_time(timeout, opened).await;
        opened.unwrap_or_else(|| Err(Fault::silent()))
    }

    async fn open_as(
        &self,
        credentials: Option<&RedisCredentials>,
        probe: Option<&Cmd>,
    ) -> Result<Wire, Fault> {
        let wire = self.greeted(credentials).await;
        let mut wire = wire.map_err(|error| Fault::for_setup(&error))?;
        let Some(Err(error)) = (match probe {
            Some(probe) => Some(wire.ask(probe).await),
            None => None,
        }) else {
            return Ok(wire);
        };
        let fault = Fault::for_setup(&error);
        match fault.verdict {
            // A server that is full, or rejects some writes, is still usable.
            Liveness::Answered => Ok(wire),
            Liveness::Silent | Liveness::Late | Liveness::Lost | Liveness::Denied => Err(fault),
        }
    }

    /// Connects and sends the handshake.
    async fn greeted(&self, credentials: Option<&RedisCredentials>) -> RedisResult<Wire> {
        let mut wire = self.dial().await?;
        let greeted = wire.greet(self.protocol, credentials, self.database).await;
        match greeted {
            // Some proxies end a connection on which `HELLO` arrives.
            Err(error)
                if error.is_connection_dropped() && self.protocol == Protocol::Negotiated =>
            {
                let mut wire = self.dial().await?;
                wire.greet(Protocol::Resp2, credentials, self.database)
                    .await?;
                Ok(wire)
            }
            greeted => greeted.map(|()| wire),
        }
    }

    async fn dial(&self) -> RedisResult<Wire> {
        let (host, port) = match &self.place {
            AddressKind::Unix(path) => return Ok(Wire::new(UnixStream::connect(path).await?)),
            AddressKind::Tcp { host, port } => (host.as_str(), *port),
        };
        let stream = TcpStream::connect((host, port)).await?;
        // Requests are single small packets; Nagle's algorithm would only delay them.
        stream.set_nodelay(true)?;
        Ok(match &self.tls {
            None => Wire::new(stream),
            Some(tls) => Wire::new(tls.connect(host, stream).await?),
        })
    }
}

/// Replaces a TLS scheme in a URL with the scheme without TLS. Returns the URL, and `true` if it
/// had a TLS scheme.
fn without_tls(url: &str) -> Result<(Cow<'_, str>, bool), ConfigError> {
    let secret = [("rediss://", "redis://"), ("valkeys://", "valkey://")];
    let rest = |(scheme, plain)| Some((plain, url.strip_prefix(scheme)?));
    match secret.into_iter().find_map(rest) {
        // In other clients `#insecure` disables the verification of certificates.
        Some((_, rest)) if rest.contains('#') => Err(refused(
            "a fragment is not allowed, and certificates are always verified",
        )),
        Some((plain, rest)) => Ok((format!("{plain}{rest}").into(), true)),
        None => Ok((url.into(), false)),
    }
}

fn read(url: &str) -> Result<(AddressKind, RedisConnectionInfo), ConfigError> {
    let info = url
        .into_connection_info()
        .map_err(|_| refused("it is not a valid URL"))?;
    let place = match info.addr() {
        ConnectionAddr::Tcp(host, port) => AddressKind::Tcp {
            host: host.clone(),
            port: *port,
        },
        ConnectionAddr::Unix(path) => AddressKind::Unix(path.clone()),
        _ => return Err(refused("its scheme is not supported")),
    };
    Ok((place, info.redis_settings().clone()))
}

/// Creates an error without the URL, which may contain a password.
fn refused(problem: &'static str) -> ConfigError {
    ConfigError::new("redis url", "not shown", problem).fix(
        "write `redis://user:password@host:6379/0`, `rediss://` for TLS, or \
         `redis+unix:///path/of/the/socket`",
    )
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Address {
    /// Formats the host and port, or the path, without credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.place.fmt(f)
    }
}

impl fmt::Display for AddressKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Address, ConfigError> {
        Address::parse(url, &Tls::default())
    }

    #[test]
    fn password_is_absent_from_debug_and_errors() {
        let url = "redis://billing:hunter2@db.example:6380/3";
        let address = parse(url).unwrap();
        assert_eq!(format!("{address:?}"), "db.example:6380");
        assert_eq!(address.database(), 3);
        for bad in [
            "redis://u:hunter2@",
            "http://u:hunter2@h",
            "hunter2",
            "rediss://u:hunter2@h/#insecure",
        ] {
            let error = parse(bad).unwrap_err();
            assert!(!format!("{error:?} {error}").contains("hunter2"));
        }
    }

    #[test]
    fn a_url_of_another_kind_is_refused() {
        for url in [
            "rediss://h#insecure",
            "rediss+unix:///run/redis.sock",
            "http://h",
            "h:6379",
            "redis://",
            "redis://h/x",
        ] {
            assert!(parse(url).is_err(), "{url}");
        }
        assert!(parse("redis+unix:///run/redis.sock").is_ok());
        let secret = Address::place_of("rediss://u:p@h:6380/1");
        assert_eq!(secret.as_deref(), Some("h:6380"));
    }
}
