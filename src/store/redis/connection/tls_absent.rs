//! Rejects TLS URLs if the feature `redis-tls` is disabled.

use redis::RedisResult;
use tokio::net::TcpStream;

use crate::core::error::ConfigError;

/// The TLS options, which are always empty.
#[derive(Clone, Default)]
pub(crate) struct Tls {}

impl Tls {
    pub(crate) fn connector(&self) -> Result<Connector, ConfigError> {
        Err(
            ConfigError::new("redis url", "not shown", "TLS is not enabled in this build")
                .fix("enable the feature `redis-tls`"),
        )
    }
}

/// A connector that cannot be created.
#[derive(Clone, Copy)]
pub(crate) enum Connector {}

impl Connector {
    pub(crate) async fn connect(&self, _: &str, _: TcpStream) -> RedisResult<TcpStream> {
        match *self {}
    }
}
