//! Where a server is, who asks it, and how to get there.

use std::{borrow::Cow, fmt, future::Future, pin::Pin, sync::Arc};

use redis::{
    AsyncConnectionConfig, ConnectionAddr, IntoConnectionInfo, ProtocolVersion, PushInfo,
    RedisConnectionInfo, RedisResult, aio::MultiplexedConnection,
};
use tokio::net::{TcpStream, UnixStream};

use super::tls::{Connector, Tls};
use crate::error::ConfigError;

/// What moves the bytes of a connection: it must be run, and ends when the connection does.
pub(super) type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Takes what a server says unasked. It must not wait.
pub(super) type OnPush = Arc<dyn Fn(PushInfo) + Send + Sync>;

/// A server's address, and what to say to it first.
#[derive(Clone)]
pub(super) struct Address {
    place: Place,
    hello: RedisConnectionInfo,
    /// What makes a connection over the network a secret one.
    tls: Option<Connector>,
}

#[derive(Clone, PartialEq, Eq)]
enum Place {
    Tcp { host: String, port: u16 },
    Unix(std::path::PathBuf),
}

impl Address {
    /// Reads an address from a URL, such as `redis://user:password@host:6379/0`.
    pub(super) fn parse(url: &str, tls: &Tls) -> Result<Self, ConfigError> {
        let (url, is_secret) = without_tls(url)?;
        let (place, hello) = read(&url)?;
        let tls = if is_secret {
            Some(tls.connector()?)
        } else {
            None
        };
        Ok(Self { place, hello, tls })
    }

    /// Returns where the server of a URL is, and nothing of who asks.
    pub(super) fn place_of(url: &str) -> Option<String> {
        let (url, _) = without_tls(url).ok()?;
        Some(read(&url).ok()?.0.to_string())
    }

    /// Returns the address of another server of the same kind, spoken to in the same way.
    pub(super) fn at(&self, host: &str, port: u16) -> Self {
        Self {
            place: Place::Tcp {
                host: host.to_owned(),
                port,
            },
            ..self.clone()
        }
    }

    /// Returns the same address, asked by another user, or for another database.
    pub(super) fn with_login(mut self, login: &Login) -> Self {
        if let Some(user) = &login.user {
            self.hello = self.hello.set_username(user);
        }
        if let Some(password) = &login.password {
            self.hello = self.hello.set_password(password);
        }
        if let Some(database) = login.database {
            self.hello = self.hello.set_db(database.into());
        }
        self
    }

    /// Returns the same address, asked by nobody in particular.
    pub(super) fn without_login(mut self) -> Self {
        self.hello = hello(RedisConnectionInfo::default());
        self
    }

    pub(super) fn is_same_place(&self, other: &Self) -> bool {
        self.place == other.place
    }

    pub(super) fn host(&self) -> Option<&str> {
        match &self.place {
            Place::Tcp { host, .. } => Some(host),
            Place::Unix(_) => None,
        }
    }

    pub(super) fn database(&self) -> i64 {
        self.hello.db()
    }

    /// Connects, and says hello.
    ///
    /// Nothing limits how long that takes: the caller does.
    pub(super) async fn connect(
        &self,
        queue_max: usize,
        on_push: Option<OnPush>,
    ) -> RedisResult<(MultiplexedConnection, Driver)> {
        let mut config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(queue_max);
        if let Some(on_push) = on_push {
            config = config.set_push_sender(move |push| {
                on_push(push);
                Ok::<_, ()>(())
            });
        }
        match &self.place {
            Place::Unix(path) => {
                let stream = UnixStream::connect(path).await?;
                finish(&self.hello, stream, config).await
            }
            Place::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                // A decision is one small packet, and nothing follows that it could wait for.
                stream.set_nodelay(true)?;
                match &self.tls {
                    None => finish(&self.hello, stream, config).await,
                    Some(tls) => {
                        let stream = tls.connect(host, stream).await?;
                        finish(&self.hello, stream, config).await
                    }
                }
            }
        }
    }
}

/// Returns a URL without what it says of TLS, and whether it asks for it.
fn without_tls(url: &str) -> Result<(Cow<'_, str>, bool), ConfigError> {
    let secret = [("rediss://", "redis://"), ("valkeys://", "valkey://")];
    let rest = |(scheme, plain)| Some((plain, url.strip_prefix(scheme)?));
    match secret.into_iter().find_map(rest) {
        // Elsewhere `#insecure` means that whoever answers is believed.
        Some((_, rest)) if rest.contains('#') => Err(refused(
            "nothing stands after the database, and certificates are always checked",
        )),
        Some((plain, rest)) => Ok((format!("{plain}{rest}").into(), true)),
        None => Ok((url.into(), false)),
    }
}

fn read(url: &str) -> Result<(Place, RedisConnectionInfo), ConfigError> {
    let info = url
        .into_connection_info()
        .map_err(|_| refused("it cannot be read"))?;
    let place = match info.addr() {
        ConnectionAddr::Tcp(host, port) => Place::Tcp {
            host: host.clone(),
            port: *port,
        },
        ConnectionAddr::Unix(path) => Place::Unix(path.clone()),
        _ => return Err(refused("it is of an unknown kind")),
    };
    Ok((place, hello(info.redis_settings().clone())))
}

/// The URL may bear a password: no error shows it.
fn refused(problem: &'static str) -> ConfigError {
    ConfigError::new("redis url", "not shown", problem).fix(
        "write `redis://user:password@host:6379/0`, `rediss://` for TLS, or \
         `redis+unix:///path/of/the/socket`",
    )
}

async fn finish<S>(
    hello: &RedisConnectionInfo,
    stream: S,
    config: AsyncConnectionConfig,
) -> RedisResult<(MultiplexedConnection, Driver)>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (connection, driver) =
        MultiplexedConnection::new_with_config(hello, stream, config).await?;
    Ok((connection, Box::pin(driver)))
}

/// RESP3 on all connections, and no word of which client library this is.
fn hello(info: RedisConnectionInfo) -> RedisConnectionInfo {
    info.set_protocol(ProtocolVersion::RESP3)
        .set_skip_set_lib_name()
}

/// Who asks, where the URL does not say.
#[derive(Clone, Default)]
pub(super) struct Login {
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) database: Option<u32>,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Address {
    /// Writes where the server is, and nothing of who asks.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.place.fmt(f)
    }
}

impl fmt::Display for Place {
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
    fn a_password_is_never_shown() {
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
