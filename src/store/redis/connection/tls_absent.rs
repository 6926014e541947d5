//! Where TLS is not built: a URL that asks for it is refused.

use redis::RedisResult;
use tokio::net::TcpStream;

use crate::core::error::ConfigError;

/// Nothing that anyone could set.
#[derive(Clone, Default)]
pub(crate) struct Tls {}

impl Tls {
    pub(crate) fn connector(&self) -> Result<Connector, ConfigError> {
        Err(ConfigError::new(
            "redis url",
            "not shown",
            "TLS is not built into this program",
        )
        .fix("build with the feature `redis-tls`"))
    }
}

/// What nobody has.
#[derive(Clone, Copy)]
pub(crate) enum Connector {}

impl Connector {
    pub(crate) async fn connect(&self, _: &str, _: TcpStream) -> RedisResult<TcpStream> {
        match *self {}
    }
}
