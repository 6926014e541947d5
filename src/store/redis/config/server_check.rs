//! Checks that the server's settings are safe for the stored data.

use std::sync::atomic::{AtomicBool, Ordering};

use redis::Value;

use crate::{
    core::{error::ConfigError, notice},
    store::redis::connection::client::Link,
};

/// The kinds of data that the server must not lose, and the settings that were already reported.
#[derive(Debug, Default)]
pub(crate) struct ServerCheck {
    has_limits: AtomicBool,
    has_api_keys: AtomicBool,
    is_eviction_reported: AtomicBool,
    is_persistence_reported: AtomicBool,
}

impl ServerCheck {
    /// Records that a rate limiter uses the store.
    pub(crate) fn note_limits(&self) {
        self.has_limits.store(true, Ordering::Relaxed);
    }

    /// Records that the store contains API keys.
    pub(crate) fn note_api_keys(&self) {
        self.has_api_keys.store(true, Ordering::Relaxed);
    }

    /// Reads the server's settings if `INFO` is permitted, and reports each mistake once.
    pub(crate) async fn run(&self, link: &Link) {
        if !self.is_due() {
            return;
        }
        if let Some(info) = link.info().await.and_then(text) {
            self.judge(&Info(&info));
        }
    }

    fn is_due(&self) -> bool {
        let is = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        let has_api_keys = is(&self.has_api_keys);
        let may_evict = (is(&self.has_limits) || has_api_keys) && !is(&self.is_eviction_reported);
        may_evict || (has_api_keys && !is(&self.is_persistence_reported))
    }

    fn judge(&self, info: &Info<'_>) {
        let has_api_keys = self.has_api_keys.load(Ordering::Relaxed);
        let has_limits = self.has_limits.load(Ordering::Relaxed);
        if let Some(policy) = info.eviction() {
            // API keys have no expiry, so only the `allkeys` policies evict them.
            let loses_keys = has_api_keys && policy.starts_with("allkeys");
            if has_limits || loses_keys {
                notice::misconfigured(&self.is_eviction_reported, || evicts(policy, loses_keys));
            }
        }
        if has_api_keys && info.field("aof_enabled") == Some("0") {
            notice::misconfigured(&self.is_persistence_reported, not_persistent);
        }
    }
}

/// The reply to `INFO`.
struct Info<'a>(&'a str);

impl<'a> Info<'a> {
    fn field(&self, name: &str) -> Option<&'a str> {
        let fields = self.0.lines().filter_map(|line| line.split_once(':'));
        let mut named = fields.filter(|(own, _)| *own == name);
        named.next().map(|(_, value)| value.trim())
    }

    /// Returns the eviction policy if the server evicts keys.
    fn eviction(&self) -> Option<&'a str> {
        let is_bounded = self.field("maxmemory").is_some_and(|bytes| bytes != "0");
        let policy = self.field("maxmemory_policy")?;
        (is_bounded && policy != "noeviction").then_some(policy)
    }
}

/// Returns the text of a reply.
fn text(reply: Value) -> Option<String> {
    match reply {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
        Value::VerbatimString { text, .. } | Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

fn evicts(policy: &str, loses_keys: bool) -> ConfigError {
    let problem = match loses_keys {
        true => "under memory pressure the server evicts API keys and rate limit counts",
        false => "under memory pressure the server evicts rate limit counts, which resets quotas",
    };
    ConfigError::new("maxmemory-policy", policy, problem).fix(
        "set `maxmemory-policy noeviction` on the server, or use a separate server for the cache",
    )
}

fn not_persistent() -> ConfigError {
    let problem = "the server does not persist each write: API keys created or revoked since its last \
         snapshot are lost when it restarts";
    ConfigError::new("appendonly", "no", problem).fix("set `appendonly yes` on the server")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_server_with_a_bound_evicts() {
        let eviction = |info| Info(info).eviction();
        assert_eq!(
            eviction("# Memory\r\nmaxmemory:1024\r\nmaxmemory_policy:allkeys-lru\r\n"),
            Some("allkeys-lru")
        );
        for harmless in [
            "maxmemory:0\r\nmaxmemory_policy:allkeys-lru",
            "maxmemory:1024\r\nmaxmemory_policy:noeviction",
            "maxmemory_policy:allkeys-lru",
            "",
        ] {
            assert_eq!(eviction(harmless), None, "{harmless}");
        }
    }
}
