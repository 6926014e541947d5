//! A minimal Redis client for commands in tests.

use std::{
    fmt,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
};

use super::patience::PATIENCE;

/// A RESP2 connection to a Redis server. It has no pipelining and is independent of any store.
pub struct RedisClient(BufReader<TcpStream>);

impl RedisClient {
    /// Connects to a server. Returns `None` if the connection fails.
    pub fn connect(addr: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect(addr).ok()?;
        stream.set_nodelay(true).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        Some(Self(BufReader::new(stream)))
    }

    /// Sends a command and waits for the reply. Returns `None` if the connection ends before the
    /// reply arrives.
    pub fn ask(&mut self, command: &[&[u8]]) -> Option<RedisReply> {
        let mut out = format!("*{}\r\n", command.len()).into_bytes();
        for word in command {
            out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            out.extend_from_slice(word);
            out.extend_from_slice(b"\r\n");
        }
        self.0.get_mut().write_all(&out).ok()?;
        self.read()
    }

    fn read(&mut self) -> Option<RedisReply> {
        let mut line = String::new();
        self.0.read_line(&mut line).ok()?;
        let (kind, rest) = line.trim_end().split_at_checked(1)?;
        Some(match kind {
            "+" => RedisReply::text(rest),
            "-" => RedisReply::Error(rest.to_owned()),
            ":" => RedisReply::Int(rest.parse().ok()?),
            "$" => match usize::try_from(rest.parse::<i64>().ok()?) {
                Ok(len) => {
                    let mut bytes = vec![0; len + 2];
                    self.0.read_exact(&mut bytes).ok()?;
                    bytes.truncate(len);
                    RedisReply::Bulk(bytes)
                }
                Err(_) => RedisReply::Nil,
            },
            "*" => match usize::try_from(rest.parse::<i64>().ok()?) {
                Ok(len) => RedisReply::Array((0..len).map(|_| self.read()).collect::<Option<_>>()?),
                Err(_) => RedisReply::Nil,
            },
            _ => return None,
        })
    }
}

impl fmt::Debug for RedisClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = self.0.get_ref().peer_addr().ok();
        f.debug_tuple("RedisClient").field(&server).finish()
    }
}

/// A reply from a Redis server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RedisReply {
    /// A simple string, such as `OK`.
    Text(String),
    /// An error. The text starts with the error code.
    Error(String),
    /// An integer.
    Int(i64),
    /// A bulk string.
    Bulk(Vec<u8>),
    /// A null reply.
    Nil,
    /// An array of replies.
    Array(Vec<RedisReply>),
}

impl RedisReply {
    /// Creates a simple string with which a reply can be compared.
    pub fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    /// Returns the reply as text. The elements of an array are separated by spaces.
    pub fn as_text(&self) -> String {
        match self {
            Self::Text(text) | Self::Error(text) => text.clone(),
            Self::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Self::Int(int) => int.to_string(),
            Self::Nil => String::new(),
            Self::Array(each) => each.iter().map(Self::as_text).collect::<Vec<_>>().join(" "),
        }
    }

    /// Returns the value of an integer reply.
    ///
    /// # Panics
    ///
    /// Panics if the reply is not an integer.
    pub fn as_int(&self) -> i64 {
        match self {
            Self::Int(int) => *int,
            other => panic!("not an integer: {other:?}"),
        }
    }
}
