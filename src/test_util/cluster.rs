//! A Redis Cluster for tests.

use super::{client::RedisReply, patience::until, server::RedisServer};

/// The timeout, in milliseconds, after which nodes consider another node failed.
const NODE_TIMEOUT: &str = "2000";

/// A Redis Cluster of three primaries with one replica each. The Cluster stops when this value is
/// dropped.
#[derive(Debug)]
pub struct RedisCluster {
    servers: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts the six servers and waits until they form a Cluster and the replicas are in sync.
    ///
    /// # Panics
    ///
    /// Panics if `redis-server` is not installed, or if the Cluster does not form within 20
    /// seconds.
    pub fn start() -> Self {
        let options = [
            ["--cluster-enabled", "yes"],
            ["--cluster-config-file", "nodes.conf"],
            ["--cluster-node-timeout", NODE_TIMEOUT],
            ["--cluster-require-full-coverage", "no"],
            // A replica is listed after its first message from the primary, for which a ping is
            // enough.
            ["--repl-ping-replica-period", "1"],
        ];
        let servers = (0..6).map(|_| RedisServer::with(options.as_flattened()));
        let cluster = Self {
            servers: servers.collect(),
        };
        cluster.meet();
        for (main, replica) in cluster.primaries().iter().zip(cluster.replicas()) {
            let id = main.ask(&["CLUSTER", "MYID"]).as_text();
            replica.ask(&["CLUSTER", "REPLICATE", &id]);
        }
        cluster.until_in_step();
        cluster
    }

    fn meet(&self) {
        let ranges = [["0", "5460"], ["5461", "10922"], ["10923", "16383"]];
        for (server, [first, last]) in self.primaries().iter().zip(ranges) {
            server.ask(&["CLUSTER", "ADDSLOTSRANGE", first, last]);
        }
        for (number, server) in self.servers.iter().enumerate() {
            let epoch = (number + 1).to_string();
            server.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]);
            let port = server.addr().port().to_string();
            self.servers[0].ask(&["CLUSTER", "MEET", "127.0.0.1", &port]);
        }
        self.until_all(|server| {
            let nodes = server.ask(&["CLUSTER", "NODES"]).as_text();
            nodes.lines().count() == 6 && !nodes.contains("handshake")
        });
    }

    fn until_in_step(&self) {
        self.until_all(|server| {
            let slots = server.ask(&["CLUSTER", "SLOTS"]);
            let has_replica =
                |range: &RedisReply| matches!(range, RedisReply::Array(r) if r.len() == 4);
            let are_known = matches!(&slots, RedisReply::Array(ranges)
                if ranges.len() == 3 && ranges.iter().all(has_replica));
            let info = server.ask(&["CLUSTER", "INFO"]).as_text();
            are_known && info.contains("cluster_state:ok")
        });
        for replica in self.replicas() {
            until(|| {
                let info = replica.ask(&["INFO", "replication"]).as_text();
                info.contains("master_link_status:up")
            });
        }
    }

    fn until_all(&self, mut is_so: impl FnMut(&RedisServer) -> bool) {
        until(|| self.servers.iter().all(&mut is_so));
    }

    /// Returns the three primaries, each of which has a third of the slots, followed by the
    /// replicas in the same order.
    pub fn servers(&self) -> &[RedisServer] {
        &self.servers
    }

    /// Returns the primaries in the order of their slots.
    pub fn primaries(&self) -> &[RedisServer] {
        &self.servers[..3]
    }

    /// Returns the replicas in the order of their primaries.
    pub fn replicas(&self) -> &[RedisServer] {
        &self.servers[3..]
    }

    /// Returns the URLs of all servers.
    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(RedisServer::url).collect()
    }
}
