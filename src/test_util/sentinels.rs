//! A server that Sentinels watch.

use super::{patience::until, server::RedisServer};

/// A server with a replica, watched by three Sentinels under the name `main`, ended when this is
/// dropped.
#[derive(Debug)]
pub struct RedisSentinels {
    main: RedisServer,
    replica: RedisServer,
    sentinels: Vec<RedisServer>,
}

impl RedisSentinels {
    /// Starts all five, and waits until the Sentinels know one another and both servers. They hold a
    /// server to be gone after half a second of silence.
    ///
    /// # Panics
    ///
    /// If `redis-server` is not installed, or they do not find one another within 20 seconds.
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

    /// Returns the server that is the main one at the start.
    pub fn main(&self) -> &RedisServer {
        &self.main
    }

    /// Returns its replica, which takes its place if it is gone.
    pub fn replica(&self) -> &RedisServer {
        &self.replica
    }

    /// Returns the URLs of the Sentinels.
    pub fn urls(&self) -> Vec<String> {
        self.sentinels.iter().map(RedisServer::url).collect()
    }
}
