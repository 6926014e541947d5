//! A connection during its setup, or a connection for a subscription. It sends one command at a
//! time.

use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, RedisConnectionInfo, RedisError, RedisResult, Value,
    aio::MultiplexedConnection, parse_redis_value_async,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use zeroize::Zeroizing;

use super::{
    driver::{CountedStream, Driver},
    error::{is_denied, is_refused_hello},
    protocol::Protocol,
};
use crate::store::redis::config::credentials::RedisCredentials;

/// The byte stream of a connection, over TCP, TLS or a Unix socket.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Transport for S {}

/// The two directions of a connection.
pub(super) type TransportReader = ReadHalf<Box<dyn Transport>>;
pub(super) type TransportWriter = WriteHalf<Box<dyn Transport>>;

/// A connection without pipelining: each command waits for the reply to the previous one.
pub(crate) struct Wire(Box<dyn Transport>);

impl Wire {
    pub(crate) fn new(transport: impl Transport + 'static) -> Self {
        Self(Box::new(transport))
    }

    /// Negotiates the protocol version, authenticates and selects the database.
    pub(crate) async fn greet(
        &mut self,
        protocol: Protocol,
        credentials: Option<&RedisCredentials>,
        database: i64,
    ) -> RedisResult<()> {
        match protocol {
            Protocol::Resp2 => self.authenticate(credentials).await?,
            Protocol::Resp3 => self.hello(credentials).await.map_err(must_speak_resp3)?,
            Protocol::Negotiated => match self.hello(credentials).await {
                Err(error) if is_refused_hello(&error) => self.authenticate(credentials).await?,
                greeted => greeted?,
            },
        }
        if database != 0 {
            let mut select = redis::cmd("SELECT");
            select.arg(database);
            self.ask(&select).await?;
        }
        Ok(())
    }

    async fn hello(&mut self, credentials: Option<&RedisCredentials>) -> RedisResult<()> {
        let mut words: Vec<&[u8]> = vec![b"HELLO", b"3"];
        if let Some(credentials) = credentials {
            let (username, password) = (credentials.username_or_default(), credentials.bytes());
            words.extend([b"AUTH", username.as_bytes(), password]);
        }
        self.ask_packed(&pack(&words)).await.map(drop)
    }

    /// Authenticates with `AUTH` if there are credentials.
    async fn authenticate(&mut self, credentials: Option<&RedisCredentials>) -> RedisResult<()> {
        let Some(credentials) = credentials else {
            return Ok(());
        };
        let alone: [&[u8]; 2] = [b"AUTH", credentials.bytes()];
        let Some(username) = credentials.username() else {
            return self.ask_packed(&pack(&alone)).await.map(drop);
        };
        let both: [&[u8]; 3] = [b"AUTH", username.as_bytes(), credentials.bytes()];
        match self.ask_packed(&pack(&both)).await {
            // Servers before Redis 6 have no users.
            Err(error) if has_no_users(&error) => self.ask_packed(&pack(&alone)).await.map(drop),
            replied => replied.map(drop),
        }
    }

    /// Sends a command and returns the reply. An error reply is returned as an error.
    pub(crate) async fn ask(&mut self, command: &Cmd) -> RedisResult<Value> {
        self.ask_packed(&command.get_packed_command()).await
    }

    async fn ask_packed(&mut self, command: &[u8]) -> RedisResult<Value> {
        self.0.write_all(command).await?;
        self.0.flush().await?;
        // Only one reply is pending, so the decoder holds no byte of another one.
        let mut decoder = Default::default();
        match parse_redis_value_async(&mut decoder, &mut self.0).await? {
            Value::ServerError(error) => Err(error.into()),
            value => Ok(value),
        }
    }

    /// Returns a multiplexed connection, and the future that drives it.
    pub(crate) async fn share(
        self,
        max_queue: usize,
    ) -> RedisResult<(MultiplexedConnection, Driver)> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(max_queue);
        // The setup is complete, so `redis` must send nothing.
        let greeted = RedisConnectionInfo::default().set_skip_set_lib_name();
        let (transport, replies) = CountedStream::new(self.0);
        let (connection, driver) =
            MultiplexedConnection::new_with_config(&greeted, transport, config).await?;
        Ok((connection, Driver::new(driver, replies)))
    }

    /// Returns the two directions of the connection.
    pub(crate) fn split(self) -> (TransportReader, TransportWriter) {
        split(self.0)
    }
}

/// Returns the bytes of a command. The bytes are zeroized, because they may contain a password.
fn pack(words: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let len = words.iter().map(|word| word.len() + 32).sum::<usize>() + 32;
    let mut out = Zeroizing::new(Vec::with_capacity(len));
    out.extend(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend(format!("${}\r\n", word.len()).as_bytes());
        out.extend(*word);
        out.extend(b"\r\n");
    }
    out
}

fn has_no_users(error: &RedisError) -> bool {
    let words = error.detail().unwrap_or_default();
    words.contains("wrong number of arguments for 'auth' command")
}

/// Replaces the error of a server that rejects `HELLO` with an error about missing RESP3 support.
fn must_speak_resp3(error: RedisError) -> RedisError {
    if is_denied(&error) || !is_refused_hello(&error) {
        return error;
    }
    let words = match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        (Some(_) | None, _) => error.to_string(),
    };
    (
        ErrorKind::RESP3NotSupported,
        "the server rejects RESP3",
        words,
    )
        .into()
}
