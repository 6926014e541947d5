//! The configuration of a Redis store: its servers, timeouts and limits.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    login::LoginOptions,
    servers::{ServerRoute, Servers},
};
use crate::{
    core::{audit::Auditor, error::ConfigError},
    store::redis::connection::tls::Tls,
};

/// The configuration of a [`RedisStore`](crate::store::redis::store::RedisStore): its servers,
/// timeouts and limits.
///
/// ```
/// use std::time::Duration;
/// use portcullis::store::RedisConfig;
///
/// let one = RedisConfig::single("redis://127.0.0.1:6379");
/// let sentinels = ["redis://10.0.0.1:26379", "redis://10.0.0.2:26379"];
/// let watched = RedisConfig::sentinel(sentinels, "main")
///     .password("from a secret manager")
///     .prefix("acme")
///     .rate_limit_timeout(Duration::from_millis(40));
/// let many = RedisConfig::cluster(["redis://10.0.1.1:6379", "redis://10.0.1.2:6379"]);
/// # let _ = (one, watched, many);
/// ```
///
/// The URL has the form `redis://user:password@host:6379/0`, `rediss://` for TLS (feature
/// `redis-tls`), or `redis+unix:///path/of/the/socket?user=..&pass=..&db=0`. The user, password and
/// database are optional. The `Debug` output does not contain the password.
///
/// By default, a connection uses RESP3, or RESP2 if the server or proxy rejects RESP3. To use RESP2
/// without sending `HELLO`, append `?protocol=2` (or `resp2`) to the URL. To fail on servers that
/// reject `HELLO`, append `?protocol=3` (or `resp3`). All URLs of a store must specify the same
/// protocol. Other parameters are rejected.
#[derive(Clone)]
#[must_use]
pub struct RedisConfig {
    servers: Servers,
    pub(crate) login: LoginOptions,
    pub(crate) tls: Tls,
    name: Arc<str>,
    prefix: String,
    timeouts: CallTimeouts,
    max_pending_calls: usize,
    bounds: RedisBounds,
    auditor: Option<Arc<dyn Auditor>>,
}

/// The timeout for each layer's calls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallTimeouts {
    pub(crate) rate_limit: Duration,
    pub(crate) api_key: Duration,
    pub(crate) cache: Duration,
    pub(crate) access_log: Duration,
    /// The time without any reply, while calls wait, after which the server counts as unavailable.
    pub(crate) silence: Duration,
    /// The maximum time that a call waits for a connection.
    pub(crate) connect: Duration,
}

/// The size limits of a store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RedisBounds {
    pub(crate) max_cache_body_bytes: usize,
    pub(crate) max_log_records: usize,
    pub(crate) max_cached_denials: usize,
    pub(crate) max_batch: usize,
}

impl RedisConfig {
    /// Creates the configuration of a single server. The host can be a DNS name that fails over to
    /// another server.
    pub fn single(url: impl Into<String>) -> Self {
        Self::new(Servers::Single(url.into()))
    }

    /// Creates the configuration of a primary that Sentinels monitor. `main` is the primary's name
    /// on the Sentinels.
    ///
    /// The store queries the Sentinels each time it connects, including after the primary has
    /// become a replica. The username and password in a URL authenticate only to that Sentinel.
    /// Connections to the primary use [`username`](Self::username) and
    /// [`password`](Self::password), or [`credentials_provider`](Self::credentials_provider), and
    /// select [`database`](Self::database). They use TLS if the first Sentinel's URL does, and the
    /// protocol version that the URLs specify.
    pub fn sentinel<U: Into<String>>(
        sentinels: impl IntoIterator<Item = U>,
        main: impl Into<String>,
    ) -> Self {
        Self::new(Servers::Sentinel {
            sentinels: sentinels.into_iter().map(Into::into).collect(),
            main: main.into(),
        })
    }

    /// Creates the configuration of a Cluster that is discovered through these nodes.
    ///
    /// The username, password and TLS setting of the first URL apply to all nodes of the Cluster,
    /// and so does the protocol version that the URLs specify.
    pub fn cluster<U: Into<String>>(nodes: impl IntoIterator<Item = U>) -> Self {
        Self::new(Servers::Cluster(
            nodes.into_iter().map(Into::into).collect(),
        ))
    }

    fn new(servers: Servers) -> Self {
        Self {
            servers,
            login: LoginOptions::default(),
            tls: Tls::default(),
            name: "redis".into(),
            prefix: "portcullis".to_owned(),
            timeouts: CallTimeouts {
                rate_limit: Duration::from_millis(25),
                api_key: Duration::from_millis(50),
                cache: Duration::from_millis(25),
                access_log: Duration::from_secs(1),
                silence: Duration::from_millis(50),
                connect: Duration::from_millis(250),
            },
            max_pending_calls: 1_024,
            bounds: RedisBounds {
                max_cache_body_bytes: 1 << 20,
                max_log_records: 100_000,
                max_cached_denials: 10_000,
                max_batch: 32,
            },
            auditor: None,
        }
    }

    /// Sets the store's name in notices and audit events. Defaults to `redis`.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets the prefix of all Redis keys. Defaults to `portcullis`. The prefix must consist of 1 to
    /// 32 letters, digits, `.`, `_`, `-` or `:`.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets the timeout for rate-limit decisions. Defaults to 25 ms. The value must be positive and
    /// at most 60 s.
    ///
    /// While the server replies slowly, a call waits for as long as recent replies took, but for at
    /// most eight times the timeout. If the server sends nothing at all, a call waits only for the
    /// timeout.
    pub fn rate_limit_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.rate_limit = timeout;
        self
    }

    /// Sets the timeout for API key lookups. Defaults to 50 ms. The value must be positive and at
    /// most 60 s.
    ///
    /// As with [`rate_limit_timeout`](Self::rate_limit_timeout), calls to a slow server wait up to
    /// eight times the timeout.
    pub fn api_key_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.api_key = timeout;
        self
    }

    /// Sets the timeout for cache calls. Defaults to 25 ms. The value must be positive and at most
    /// 60 s.
    ///
    /// As with [`rate_limit_timeout`](Self::rate_limit_timeout), calls to a slow server wait up to
    /// eight times the timeout.
    pub fn cache_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.cache = timeout;
        self
    }

    /// Sets the time after which the server counts as unavailable if it sends no reply although
    /// calls are waiting. Defaults to 50 ms. The value must be positive and at most 60 s.
    ///
    /// Any reply restarts this time, including a reply to a call that has already timed out. Time
    /// during which this process was delayed does not count. For a server with a high latency, the
    /// time is extended to twice the latency, but to at most four times this value. Regardless of
    /// this value, a server also counts as unavailable after five consecutive rounds of calls
    /// without a reply. Calls that wait at the same time form one round.
    pub fn idle_timeout(mut self, silence: Duration) -> Self {
        self.timeouts.silence = silence;
        self
    }

    /// Sets the timeout for opening a connection, and for querying a Sentinel or node for the
    /// addresses of the servers. Defaults to 250 ms. The value must be positive and at most 60 s.
    ///
    /// A call waits for a connection for no longer than the call's own timeout. The server counts
    /// as unavailable once the attempt to connect fails or exceeds this timeout.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.connect = timeout;
        self
    }

    /// Sets the maximum number of calls that can wait for one server. Defaults to 1 024. The value
    /// must be at least 1. Additional calls fail immediately.
    pub fn max_pending_calls(mut self, calls: usize) -> Self {
        self.max_pending_calls = calls;
        self
    }

    /// Sets the maximum number of rejected partitions that are remembered. Defaults to 10 000. With
    /// a value of 0, no rejected partitions are remembered.
    ///
    /// Until a rejected partition's `retry_after` elapses, repeated requests are rejected locally,
    /// by the same algorithm and with the state that the server returned. These rejections are
    /// exact unless another instance refunds or resets the partition. In that case, the refund or
    /// reset takes effect on this instance once `retry_after` has elapsed. A limiter that settles
    /// costs or charges only some responses expects refunds, so its rejections are remembered for
    /// at most half a second.
    pub fn max_cached_denials(mut self, partitions: usize) -> Self {
        self.bounds.max_cached_denials = partitions;
        self
    }

    /// Sets the maximum number of rate-limit decisions in one call. Defaults to 32. The value must
    /// be from 1 to 255; a value of 1 disables batching.
    ///
    /// Decisions are batched only while four calls for other decisions are in flight. Below that
    /// load, batching adds no waiting time. The decisions in a batch are independent of one
    /// another. The server runs a batch without interruption; 32 decisions take about 200 µs. On a
    /// Cluster, decisions are not batched, because a call is limited to one slot.
    pub fn max_batch(mut self, decisions: usize) -> Self {
        self.bounds.max_batch = decisions;
        self
    }

    /// Sets the maximum size of a cached response body in bytes. Defaults to 1 MiB. Responses with
    /// a larger body are not stored, because other replies wait while a body is transferred.
    pub fn max_cache_body_bytes(mut self, bytes: usize) -> Self {
        self.bounds.max_cache_body_bytes = bytes;
        self
    }

    /// Sets the approximate maximum number of records in each log stream. Defaults to 100 000. The
    /// value must be at least 1. When a stream exceeds the maximum, its oldest records are removed.
    pub fn max_log_records(mut self, records: usize) -> Self {
        self.bounds.max_log_records = records;
        self
    }

    /// Sets the auditor that receives an event when a server becomes unavailable and when the
    /// server becomes available again. None by default.
    pub fn auditor(mut self, auditor: impl Auditor) -> Self {
        self.auditor = Some(Arc::new(auditor));
        self
    }

    /// Validates the configuration.
    pub(crate) fn check(self) -> Result<Checked, ConfigError> {
        let timeouts = [
            ("rate_limit_timeout", self.timeouts.rate_limit),
            ("api_key_timeout", self.timeouts.api_key),
            ("cache_timeout", self.timeouts.cache),
            ("idle_timeout", self.timeouts.silence),
            ("connect_timeout", self.timeouts.connect),
            ("credentials_timeout", self.login.timeout),
        ];
        for (option, timeout) in timeouts {
            check_timeout(option, timeout)?;
        }
        check_prefix(&self.prefix)?;
        let has_sentinels = matches!(self.servers, Servers::Sentinel { .. });
        self.login.check(has_sentinels)?;
        if self.bounds.max_log_records == 0 {
            return Err(ConfigError::new(
                "max_log_records",
                0,
                "the number of records on the server must be limited",
            )
            .fix("set it to at least 1, or drop the call to use the default"));
        }
        if !(1..=255).contains(&self.bounds.max_batch) {
            return Err(ConfigError::new(
                "max_batch",
                self.bounds.max_batch,
                "a call contains 1 to 255 decisions",
            )
            .fix("set it to 1 to 255, or drop the call to use the default"));
        }
        if self.max_pending_calls == 0 {
            return Err(
                ConfigError::new("max_pending_calls", 0, "it must be at least 1")
                    .fix("increase it, or drop the call to use the default"),
            );
        }
        Ok(Checked {
            route: self.servers.route(&self.login, &self.tls)?,
            name: self.name,
            prefix: self.prefix,
            timeouts: self.timeouts,
            max_pending_calls: self.max_pending_calls,
            bounds: self.bounds,
            auditor: self.auditor,
        })
    }
}

/// A valid configuration.
pub(crate) struct Checked {
    pub(crate) route: ServerRoute,
    pub(crate) name: Arc<str>,
    pub(crate) prefix: String,
    pub(crate) timeouts: CallTimeouts,
    pub(crate) max_pending_calls: usize,
    pub(crate) bounds: RedisBounds,
    pub(crate) auditor: Option<Arc<dyn Auditor>>,
}

fn check_timeout(option: &'static str, timeout: Duration) -> Result<(), ConfigError> {
    const MAX: Duration = Duration::from_secs(60);
    if timeout.is_zero() || timeout > MAX {
        return Err(ConfigError::new(
            option,
            format_args!("{timeout:?}"),
            "a timeout must be positive and at most 60 s",
        )
        .fix("set it to 1 ms to 60 s"));
    }
    Ok(())
}

fn check_prefix(prefix: &str) -> Result<(), ConfigError> {
    // Braces are excluded: they delimit the part of a key that determines its slot.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte);
    if prefix.is_empty() || prefix.len() > 32 || !prefix.bytes().all(plain) {
        return Err(ConfigError::new(
            "prefix",
            prefix.escape_debug(),
            "a prefix has 1 to 32 letters, digits, `.`, `_`, `-` or `:`",
        )
        .fix("use the name of the service, such as `acme`"));
    }
    Ok(())
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("name", &self.name)
            .field("servers", &self.servers)
            .field("prefix", &self.prefix)
            .field("timeouts", &self.timeouts)
            .field("max_pending_calls", &self.max_pending_calls)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(config: RedisConfig) -> &'static str {
        match config.check() {
            Ok(_) => panic!("not refused"),
            Err(error) => error.option(),
        }
    }

    #[test]
    fn rejects_invalid_options() {
        let one = || RedisConfig::single("redis://h");
        assert_eq!(refused(one().prefix("a{b}")), "prefix");
        assert_eq!(refused(one().prefix("")), "prefix");
        assert_eq!(refused(one().max_pending_calls(0)), "max_pending_calls");
        assert_eq!(refused(one().max_log_records(0)), "max_log_records");
        let never = one().cache_timeout(Duration::ZERO);
        assert_eq!(refused(never), "cache_timeout");
        let never = one().idle_timeout(Duration::ZERO);
        assert_eq!(refused(never), "idle_timeout");
        let for_ever = one().connect_timeout(Duration::MAX);
        assert_eq!(refused(for_ever), "connect_timeout");
        assert_eq!(refused(RedisConfig::single("h")), "redis url");
        let no_servers: [&str; 0] = [];
        assert_eq!(
            refused(RedisConfig::sentinel(no_servers, "main")),
            "redis url"
        );
        assert_eq!(refused(RedisConfig::cluster(no_servers)), "redis url");
        let other = RedisConfig::cluster(["redis://h/1"]);
        assert_eq!(refused(other), "database");
        assert_eq!(
            refused(RedisConfig::sentinel(["redis://h"], "")),
            "sentinel"
        );
    }

    #[test]
    fn debug_shows_where_the_servers_are_and_no_password() {
        let config = RedisConfig::sentinel(["redis://u:hunter2@a:1", "redis://:hunter2@b:2"], "m")
            .password("hunter2");
        let shown = format!("{config:?}");
        assert!(shown.contains("a:1") && shown.contains("b:2"), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn a_sentinels_password_is_not_the_servers() {
        let config = RedisConfig::sentinel(["redis://:of-the-sentinel@s:26379"], "main");
        let Ok(Checked {
            route: ServerRoute::Sentinel(sentinels),
            ..
        }) = config.check()
        else {
            panic!("not by Sentinel");
        };
        assert_eq!(sentinels.addresses.len(), 1);
        assert_eq!(sentinels.server.to_string(), "s:26379");
    }
}
