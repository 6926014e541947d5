//! What a Redis store is told: where its servers are, and how long to wait for them.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    login::LoginOptions,
    servers::{ServerRoute, Servers},
};
use crate::{
    core::{audit::Auditor, error::ConfigError},
    store::redis::connection::tls::Tls,
};

/// Where the servers of a [`RedisStore`](crate::store::redis::store::RedisStore) are, and how to treat them.
///
/// ```
/// use std::time::Duration;
/// use portcullis::store::RedisConfig;
///
/// let one = RedisConfig::single("redis://127.0.0.1:6379");
/// let watched = RedisConfig::sentinel(["redis://10.0.0.1:26379", "redis://10.0.0.2:26379"], "main")
///     .password("from a secret manager")
///     .prefix("acme")
///     .rate_limit_timeout(Duration::from_millis(40));
/// let many = RedisConfig::cluster(["redis://10.0.1.1:6379", "redis://10.0.1.2:6379"]);
/// # let _ = (one, watched, many);
/// ```
///
/// A URL is `redis://user:password@host:6379/0`, `rediss://` for TLS (feature `redis-tls`), or
/// `redis+unix:///path/of/the/socket?user=..&pass=..&db=0`; user, password and database are optional.
/// No output of a configuration shows a password.
///
/// Append `?protocol=2` (or `resp2`) to a URL to speak RESP2 without sending `HELLO`, and
/// `?protocol=3` (or `resp3`) to fail on servers that refuse `HELLO`. By default connections speak
/// RESP3, and RESP2 to servers and proxies that refuse it. All URLs of a store must agree. Other
/// parameters are rejected.
#[derive(Clone)]
#[must_use]
pub struct RedisConfig {
    servers: Servers,
    pub(crate) login: LoginOptions,
    pub(crate) tls: Tls,
    name: Arc<str>,
    prefix: String,
    deadlines: Deadlines,
    max_pending_calls: usize,
    bounds: RedisBounds,
    auditor: Option<Arc<dyn Auditor>>,
}

/// The timeout of the calls of each layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadlines {
    pub(crate) rate_limit: Duration,
    pub(crate) api_key: Duration,
    pub(crate) cache: Duration,
    pub(crate) access_log: Duration,
    /// The longest silence of a server while calls wait.
    pub(crate) silence: Duration,
    /// How long a call waits for a connection.
    pub(crate) connect: Duration,
}

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RedisBounds {
    pub(crate) max_cache_body_bytes: usize,
    pub(crate) max_log_records: usize,
    pub(crate) max_cached_denials: usize,
    pub(crate) max_batch: usize,
}

impl RedisConfig {
    /// One server, which may stand behind a name that fails over by itself.
    pub fn single(url: impl Into<String>) -> Self {
        Self::new(Servers::Single(url.into()))
    }

    /// The server that Sentinels name as the main one of this name.
    ///
    /// The store asks them each time it connects, also after the server has become a replica. The
    /// username and the password of a URL authenticate to that Sentinel only; the server has
    /// [`user`](Self::username), [`password`](Self::password) or [`credentials`](Self::credentials_provider), and
    /// [`database`](Self::database). It is reached over TLS if the first Sentinel is, and speaks the
    /// protocol version of the URLs.
    pub fn sentinel<U: Into<String>>(
        sentinels: impl IntoIterator<Item = U>,
        main: impl Into<String>,
    ) -> Self {
        Self::new(Servers::Sentinel {
            sentinels: sentinels.into_iter().map(Into::into).collect(),
            main: main.into(),
        })
    }

    /// A Cluster, of which these nodes know the others.
    ///
    /// The username, the password and TLS of the first URL apply to the nodes that the Cluster names,
    /// and so does the protocol version of the URLs.
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
            deadlines: Deadlines {
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

    /// Sets what notices and audit events call this store. `redis` by default.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets what all keys begin with: 1 to 32 letters, digits, `.`, `_`, `-` or `:`. `portcullis`
    /// by default.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets the timeout of decisions on limits: 1 ms to 60 s. Defaults to 25 ms.
    ///
    /// While the server replies slowly a call waits as long as its replies take, at most eight times the
    /// timeout. A silent server gets no more than the timeout.
    pub fn rate_limit_timeout(mut self, deadline: Duration) -> Self {
        self.deadlines.rate_limit = deadline;
        self
    }

    /// Sets the timeout of lookups of API keys: 1 ms to 60 s. Defaults to 50 ms.
    ///
    /// As with [`rate_limit_timeout`](Self::rate_limit_timeout), a slow server gets up to eight times
    /// as long.
    pub fn api_key_timeout(mut self, deadline: Duration) -> Self {
        self.deadlines.api_key = deadline;
        self
    }

    /// Sets the timeout of the cache's calls: 1 ms to 60 s. Defaults to 25 ms.
    ///
    /// As with [`rate_limit_timeout`](Self::rate_limit_timeout), a slow server gets up to eight times
    /// as long.
    pub fn cache_timeout(mut self, deadline: Duration) -> Self {
        self.deadlines.cache = deadline;
        self
    }

    /// Sets the longest silence of a server while calls wait, 1 ms to 60 s, after which it counts as
    /// unavailable. Defaults to 50 ms.
    ///
    /// Any reply ends a silence, also one to a call that has timed out, and time in which this process
    /// was late itself does not count. A server whose replies take long may be silent for twice
    /// their latency, and at most four times as long as is set. Whatever is set, a server also
    /// counts as unavailable after five rounds of calls in a row without a reply; calls that wait
    /// together are one round.
    pub fn idle_timeout(mut self, silence: Duration) -> Self {
        self.deadlines.silence = silence;
        self
    }

    /// Sets the timeout of a connection that is being made, and of a Sentinel or a node that names the
    /// servers: 1 ms to 60 s. Defaults to 250 ms.
    ///
    /// A call waits for a connection no longer than its own timeout. The server counts as unavailable
    /// once the attempt fails or this time has passed.
    pub fn connect_timeout(mut self, deadline: Duration) -> Self {
        self.deadlines.connect = deadline;
        self
    }

    /// Sets how many calls may wait for one server at once; one more fails at once. 1 024 by
    /// default.
    pub fn max_pending_calls(mut self, calls: usize) -> Self {
        self.max_pending_calls = calls;
        self
    }

    /// Sets of how many partitions that were denied the store remembers it; 0 for none. 10 000 by
    /// default.
    ///
    /// Who was denied and asks again too soon is denied by the same functions on what the server
    /// said, without asking it. That is exact as long as others only spend: a refund or a reset by
    /// another instance shows once the time is over that the denial said.
    pub fn max_cached_denials(mut self, partitions: usize) -> Self {
        self.bounds.max_cached_denials = partitions;
        self
    }

    /// Sets how many decisions on limits go to the server in one call at most; 1 to send each alone. 32
    /// by default.
    ///
    /// Decisions go together that come while four calls for others are under way; who comes before
    /// waits for nobody. Each is made as if it came alone. A server does nothing else meanwhile: 32
    /// take it some 200 µs. On a Cluster each goes alone: a call can be about one slot only.
    pub fn max_batch(mut self, decisions: usize) -> Self {
        self.bounds.max_batch = decisions;
        self
    }

    /// Sets how long the body of an answer in the cache is at most; one that is longer is not kept.
    /// 1 MiB by default: while one passes, no other answer does.
    pub fn max_cache_body_bytes(mut self, bytes: usize) -> Self {
        self.bounds.max_cache_body_bytes = bytes;
        self
    }

    /// Sets about how many records each trail of the log has at most; beyond that the oldest go.
    /// 100 000 by default.
    pub fn max_log_records(mut self, records: usize) -> Self {
        self.bounds.max_log_records = records;
        self
    }

    /// Tells an auditor when the store stops answering, and when it answers again.
    pub fn auditor(mut self, auditor: impl Auditor) -> Self {
        self.auditor = Some(Arc::new(auditor));
        self
    }

    /// Checks the whole.
    pub(crate) fn check(self) -> Result<Checked, ConfigError> {
        let deadlines = [
            ("rate_limit_timeout", self.deadlines.rate_limit),
            ("api_key_timeout", self.deadlines.api_key),
            ("cache_timeout", self.deadlines.cache),
            ("idle_timeout", self.deadlines.silence),
            ("connect_timeout", self.deadlines.connect),
            ("credentials_timeout", self.login.timeout),
        ];
        for (option, deadline) in deadlines {
            check_deadline(option, deadline)?;
        }
        check_prefix(&self.prefix)?;
        let has_sentinels = matches!(self.servers, Servers::Sentinel { .. });
        self.login.check(has_sentinels)?;
        if self.bounds.max_log_records == 0 {
            return Err(ConfigError::new(
                "max_log_records",
                0,
                "a log without bounds fills the server",
            )
            .fix("give at least 1, or leave the default"));
        }
        if !(1..=255).contains(&self.bounds.max_batch) {
            return Err(ConfigError::new(
                "max_batch",
                self.bounds.max_batch,
                "a call of the script decides at least one request, and at most 255",
            )
            .fix("give 1 to 255, or leave the default"));
        }
        if self.max_pending_calls == 0 {
            return Err(ConfigError::new(
                "max_pending_calls",
                0,
                "a store that may not be called is none",
            )
            .fix("give at least 1, or leave the default"));
        }
        Ok(Checked {
            route: self.servers.route(&self.login, &self.tls)?,
            name: self.name,
            prefix: self.prefix,
            deadlines: self.deadlines,
            max_pending_calls: self.max_pending_calls,
            bounds: self.bounds,
            auditor: self.auditor,
        })
    }
}

/// A configuration of which everything can be used.
pub(crate) struct Checked {
    pub(crate) route: ServerRoute,
    pub(crate) name: Arc<str>,
    pub(crate) prefix: String,
    pub(crate) deadlines: Deadlines,
    pub(crate) max_pending_calls: usize,
    pub(crate) bounds: RedisBounds,
    pub(crate) auditor: Option<Arc<dyn Auditor>>,
}

fn check_deadline(option: &'static str, deadline: Duration) -> Result<(), ConfigError> {
    const MAX: Duration = Duration::from_secs(60);
    if deadline.is_zero() || deadline > MAX {
        return Err(ConfigError::new(
            option,
            format_args!("{deadline:?}"),
            "a request waits longer than nothing, and not for ever",
        )
        .fix("give 1 ms to 60 s"));
    }
    Ok(())
}

fn check_prefix(prefix: &str) -> Result<(), ConfigError> {
    // No braces: they would name the part of a key that decides on its slot.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte);
    if prefix.is_empty() || prefix.len() > 32 || !prefix.bytes().all(plain) {
        return Err(ConfigError::new(
            "prefix",
            prefix.escape_debug(),
            "keys begin with 1 to 32 letters, digits, `.`, `_`, `-` or `:`",
        )
        .fix("name it after the service, such as `acme`"));
    }
    Ok(())
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("name", &self.name)
            .field("servers", &self.servers)
            .field("prefix", &self.prefix)
            .field("deadlines", &self.deadlines)
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
    fn what_cannot_be_meant_is_refused() {
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
        let nobody: [&str; 0] = [];
        assert_eq!(refused(RedisConfig::sentinel(nobody, "main")), "redis url");
        assert_eq!(refused(RedisConfig::cluster(nobody)), "redis url");
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
