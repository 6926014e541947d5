//! Errors of calls, and the consequences of those errors for the connection.

use std::fmt;

use redis::{ErrorKind, RedisError, RedisResult, ServerErrorKind, Value};

use crate::core::error::{BoxError, StoreError, StoreErrorKind};

/// A failed call.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) error: StoreError,
    pub(crate) verdict: Liveness,
    /// Set if the server rejected the command itself.
    pub(crate) refusal: Option<ServerRefusal>,
}

/// The reason why an available server rejected a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServerRefusal {
    /// `OOM`: `maxmemory` is reached and nothing can be evicted.
    OutOfMemory,
    /// `NOPERM`: the user lacks a permission.
    NoPermission,
    /// `NOREPLICAS`: too few replicas are connected.
    NoReplicas,
    /// `MISCONF`: the server cannot persist and therefore rejects writes.
    CannotPersist,
    /// Any other error reply.
    Other,
}

impl ServerRefusal {
    pub(crate) const COUNT: usize = 5;

    /// Returns the cause of an error reply.
    fn of(error: &RedisError) -> Option<Self> {
        let code = match error.kind() {
            ErrorKind::Server(_) | ErrorKind::Extension => error.code()?,
            _ => return None,
        };
        Some(match code {
            "OOM" => Self::OutOfMemory,
            "NOPERM" => Self::NoPermission,
            "NOREPLICAS" => Self::NoReplicas,
            "MISCONF" => Self::CannotPersist,
            _ if is_acl_failure(error) => Self::NoPermission,
            _ => Self::Other,
        })
    }
}

/// Returns `true` if a script lacks a permission. In that case, the code is `ERR`, and the text
/// depends on the server's version.
fn is_acl_failure(error: &RedisError) -> bool {
    const STARTS: [&str; 2] = [
        "ACL failure in script",
        "The user executing the script can't",
    ];
    let words = error.detail().unwrap_or_default();
    STARTS.iter().any(|start| words.starts_with(start))
}

/// The state of a connection after a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Liveness {
    /// The server replied, possibly with an error.
    Answered,
    /// No reply arrived in time.
    Silent,
    /// No reply was read in time, because this process was delayed.
    Late,
    /// The connection has ended, is out of step, or leads to a read-only server.
    Lost,
    /// The server rejects the credentials of the connection. The command was not executed.
    Denied,
}

impl Fault {
    /// Creates a failure that occurred before a connection was usable.
    pub(crate) fn before_any_call(kind: StoreErrorKind, words: impl Into<BoxError>) -> Self {
        Self {
            error: StoreError::with_source(kind, words),
            verdict: Liveness::Lost,
            refusal: None,
        }
    }

    /// Creates a failure for a call that is not sent because its server is known to be unusable.
    pub(crate) fn unsent(kind: StoreErrorKind) -> Self {
        StoreError::from(kind).into()
    }

    /// Creates a failure for a connection that could not be set up. No call was sent, so there were
    /// no effects.
    pub(crate) fn for_setup(error: &RedisError) -> Self {
        let (kind, verdict) = judge(error);
        let kind = match kind {
            StoreErrorKind::Timeout => StoreErrorKind::Unavailable,
            kind @ (StoreErrorKind::Unavailable
            | StoreErrorKind::Conflict
            | StoreErrorKind::NotFound
            | StoreErrorKind::Corrupt
            | StoreErrorKind::Full
            | StoreErrorKind::Misconfigured) => kind,
        };
        Self {
            error: StoreError::with_source(kind, Cause::of(error)),
            verdict,
            refusal: None,
        }
    }

    /// Creates a timeout. The server may have executed the command.
    pub(crate) fn silent() -> Self {
        Self {
            error: StoreErrorKind::Timeout.into(),
            verdict: Liveness::Silent,
            refusal: None,
        }
    }

    /// Creates a timeout that may be due to a delay of this process. The server may have executed
    /// the command.
    pub(crate) fn late() -> Self {
        Self {
            verdict: Liveness::Late,
            ..Self::silent()
        }
    }

    /// Creates a failure for a reply that does not match the call. The server may have executed the
    /// command.
    pub(crate) fn corrupt(what: &str) -> Self {
        Self {
            error: StoreError::with_source(StoreErrorKind::Timeout, what),
            verdict: Liveness::Lost,
            refusal: None,
        }
    }
}

impl Fault {
    /// Returns the reason and the error, if the server rejected the command.
    pub(crate) fn refused(&self) -> Option<(ServerRefusal, &StoreError)> {
        self.refusal.map(|refusal| (refusal, &self.error))
    }

    /// Returns the same failure for another call in the same batch.
    pub(crate) fn for_another_call(&self) -> Self {
        let kind = self.error.kind();
        let error = match std::error::Error::source(&self.error) {
            Some(source) => StoreError::with_source(kind, source.to_string()),
            None => kind.into(),
        };
        Self {
            error,
            verdict: self.verdict,
            refusal: self.refusal,
        }
    }
}

/// Converts the error of a call that was not sent.
impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self {
            error,
            verdict: Liveness::Answered,
            refusal: None,
        }
    }
}

impl From<RedisError> for Fault {
    fn from(error: RedisError) -> Self {
        let (kind, verdict) = judge(&error);
        Self {
            error: StoreError::with_source(kind, Cause::of(&error)),
            verdict,
            refusal: ServerRefusal::of(&error).filter(|_| verdict == Liveness::Answered),
        }
    }
}

/// Returns `true` if a server rejects a connection's credentials or requires credentials.
pub(crate) fn is_denied(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::AuthenticationFailed => true,
        ErrorKind::Extension => matches!(error.code(), Some("NOAUTH" | "WRONGPASS")),
        // The message of servers before Redis 6.
        ErrorKind::Server(ServerErrorKind::ResponseError) => {
            error.detail() == Some("invalid password")
        }
        _ => false,
    }
}

/// Returns `true` if a server does not support RESP3. Such a server rejects `HELLO` itself, rather
/// than the password in `HELLO` or the connection.
///
/// The possible errors are an unknown command on older servers and proxies, a missing permission,
/// and an unsupported version.
pub(super) fn is_refused_hello(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown) => false,
        ErrorKind::Server(_) => !is_crowded(error),
        // `DENIED`: the server accepts local clients only.
        ErrorKind::Extension => !matches!(error.code(), Some("WRONGPASS" | "DENIED")),
        _ => false,
    }
}

/// Returns `true` if a server has too many clients.
fn is_crowded(error: &RedisError) -> bool {
    let words = error.detail().unwrap_or_default();
    words.starts_with("max number of clients reached")
}

/// Classifies the error of a call that may have been sent.
///
/// All errors are classified here. Callers, notices, audit events and
/// [`ping`](crate::store::redis::store::RedisStore::ping) report the result of this classification.
fn judge(error: &RedisError) -> (StoreErrorKind, Liveness) {
    use StoreErrorKind::{Corrupt, Full, Misconfigured, Timeout, Unavailable};
    if is_denied(error) {
        return (Misconfigured, Liveness::Denied);
    }
    match error.kind() {
        // The call may have been sent and executed before the connection ended.
        ErrorKind::Io => (Timeout, Liveness::Lost),
        // The call may have been executed, since its reply cannot be parsed.
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => (Timeout, Liveness::Lost),
        ErrorKind::InvalidClientConfig | ErrorKind::RESP3NotSupported => {
            (Misconfigured, Liveness::Lost)
        }
        ErrorKind::Server(kind) => match kind {
            ServerErrorKind::ReadOnly
            | ServerErrorKind::BusyLoading
            | ServerErrorKind::MasterDown => (Unavailable, Liveness::Lost),
            ServerErrorKind::ClusterDown
            | ServerErrorKind::TryAgain
            | ServerErrorKind::Moved
            | ServerErrorKind::Ask => (Unavailable, Liveness::Answered),
            ServerErrorKind::ResponseError if is_crowded(error) => (Unavailable, Liveness::Lost),
            _ => (Misconfigured, Liveness::Answered),
        },
        ErrorKind::Extension => match error.code() {
            Some("OOM") => (Full, Liveness::Answered),
            Some("MISCONF" | "NOREPLICAS" | "BUSY") => (Unavailable, Liveness::Answered),
            Some("WRONGTYPE") => (Corrupt, Liveness::Answered),
            Some(_) | None => (Misconfigured, Liveness::Answered),
        },
        _ => (Unavailable, Liveness::Lost),
    }
}

/// A message from the server or the operating system, truncated to 200 characters and without
/// control characters. The message contains no command and therefore no password.
#[derive(Debug)]
struct Cause(String);

impl Cause {
    fn of(error: &RedisError) -> Self {
        const MAX: usize = 200;
        let plain = |char: &char| !char.is_control();
        let words = match (error.code(), error.detail()) {
            // In the format of the server: `OOM command not allowed`.
            (Some(code), Some(detail)) => format!("{code} {detail}"),
            (None, Some(words)) if error.kind() == ErrorKind::RESP3NotSupported => {
                format!("the URL requires `protocol=3`, and the server rejects `HELLO`: {words}")
            }
            (Some(_) | None, _) => error.to_string(),
        };
        Self(words.chars().filter(plain).take(MAX).collect())
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Cause {}

/// Returns `true` if the server does not have a script with this digest. In that case, the server
/// executed nothing.
pub(super) fn is_noscript(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// Returns the server's reply, which can be an error reply, or the failure of the connection.
pub(super) fn reply_of(reply: RedisResult<Value>) -> Result<RedisResult<Value>, Fault> {
    match reply {
        Ok(Value::ServerError(error)) => Ok(Err(error.into())),
        Ok(value) => Ok(Ok(value)),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use redis::{Value, parse_redis_value};

    use super::*;

    fn said(line: &str) -> (StoreErrorKind, Liveness) {
        let Ok(Value::ServerError(error)) = parse_redis_value(line.as_bytes()) else {
            panic!("no error: {line}");
        };
        let fault = Fault::from(RedisError::from(error));
        (fault.error.kind(), fault.verdict)
    }

    #[test]
    fn distinguishes_error_replies_from_lost_servers() {
        use StoreErrorKind::{Corrupt, Full, Misconfigured, Unavailable};
        for (line, meant) in [
            ("-OOM command not allowed\r\n", (Full, Liveness::Answered)),
            ("-READONLY a replica\r\n", (Unavailable, Liveness::Lost)),
            ("-LOADING wait\r\n", (Unavailable, Liveness::Lost)),
            ("-CLUSTERDOWN wait\r\n", (Unavailable, Liveness::Answered)),
            ("-NOPERM no\r\n", (Misconfigured, Liveness::Answered)),
            ("-WRONGTYPE no\r\n", (Corrupt, Liveness::Answered)),
            ("-MISCONF disk\r\n", (Unavailable, Liveness::Answered)),
            ("-ERR what\r\n", (Misconfigured, Liveness::Answered)),
            ("-NOAUTH no\r\n", (Misconfigured, Liveness::Denied)),
            ("-WRONGPASS no\r\n", (Misconfigured, Liveness::Denied)),
            (
                "-ERR invalid password\r\n",
                (Misconfigured, Liveness::Denied),
            ),
            (
                "-ERR max number of clients reached\r\n",
                (Unavailable, Liveness::Lost),
            ),
        ] {
            assert_eq!(said(line), meant, "{line}");
        }
    }

    #[test]
    fn refusal_has_the_code_and_the_words_of_the_server() {
        use ServerRefusal::{CannotPersist, NoPermission, NoReplicas, Other, OutOfMemory};
        for (line, refusal) in [
            ("OOM command not allowed", Some(OutOfMemory)),
            ("NOPERM this user has no permissions", Some(NoPermission)),
            ("NOREPLICAS Not enough good replicas", Some(NoReplicas)),
            ("MISCONF Redis is configured to save", Some(CannotPersist)),
            ("ERR unknown command", Some(Other)),
            (
                "ERR The user executing the script can't publish",
                Some(NoPermission),
            ),
            (
                "ERR ACL failure in script: No permissions",
                Some(NoPermission),
            ),
            ("BUSY Redis is busy", Some(Other)),
            // Reported as an outage, since the connection is closed.
            ("READONLY a replica", None),
        ] {
            let Ok(Value::ServerError(error)) =
                parse_redis_value(format!("-{line}\r\n").as_bytes())
            else {
                panic!("no error: {line}");
            };
            let fault = Fault::from(RedisError::from(error));
            assert_eq!(fault.refusal, refusal, "{line}");
            assert_eq!(fault.for_another_call().refusal, refusal, "{line}");
            let source = std::error::Error::source(&fault.error).unwrap();
            assert_eq!(source.to_string(), line);
        }
    }

    #[test]
    fn a_connection_that_ends_leaves_open_what_was_done() {
        let fault = Fault::from(RedisError::from(std::io::Error::from(
            std::io::ErrorKind::BrokenPipe,
        )));
        assert_eq!(fault.error.kind(), StoreErrorKind::Timeout);
        assert_eq!(fault.verdict, Liveness::Lost);
    }
}
