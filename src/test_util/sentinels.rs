//! A Redis server with Sentinels for tests.

use super::{patience::until, server::RedisServer};

/// A server with a replica, and three Sentinels that monitor the server under the name `main`. All
/// five processes stop when this value is dropped.
#[derive(Debug)]
pub struct RedisSentinels {
    main: RedisServer,
    replica: RedisServer,
    sentinels: Vec<RedisServer>,
}

impl RedisSentinels {
    /// Starts all five servers, and waits until the Sentinels have discovered one another and both
    /// Redis servers. The Sentinels consider a server failed after half a second without a reply.
    ///
    /// # Panics
    ///
    /// Panics if `redis-server` is not installed, or if starting takes longer than 20 seconds.
    pub fn start() -> Self {
        let main = RedisServer::start();
        let port = main.addr().port().to_string();
        let replica = RedisServer::with(&["--replicaof", "127.0.0.1", &port]);
        let config = format!(
            "sentinel monitor main 127.0.0.1 {port} 2\n\
             sentinel down-after-milliseconds main 500\n\
             sentinel failover-timeout main 3000\n"
        );
        let sentinels = (0..3).map(|_| RedisServer::with_config(Some(&config), &[]));
        let sentinels: Vec<RedisServer> = sentinels.collect();
        for sentinel in &sentinels {
            until(|| {
                let known = sentinel.ask(&["SENTINEL", "MASTER", "main"]).as_text();
                known.contains("num-slaves 1") && known.contains("num-other-sentinels 2")
            });
        }
        Self {
            main,
            replica,
            sentinels,
        }
    }

    /// Returns the initial primary.
    pub fn main(&self) -> &RedisServer {
        &self.main
    }

    /// Returns the replica of the initial primary. The replica becomes the primary after a
    /// failover.
    pub fn replica(&self) -> &RedisServer {
        &self.replica
    }

    /// Returns the URLs of the Sentinels.
    pub fn urls(&self) -> Vec<String> {
        self.sentinels.iter().map(RedisServer::url).collect()
    }
}
