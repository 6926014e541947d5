//! Effects of one failing Cluster node on limits and keys, for each kind of failure: it affects
//! only its own slots, and no partition is charged twice.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use portcullis::{
    StoreErrorKind,
    api_key::{ApiKeyStore, KeyId, KeyManager, KeyRing, NewKey},
    rate_limit::{Policy, Quota, RateLimitStore},
    store::{
        RedisConfig, RedisStore,
        backend::{Charge, StoreKey},
    },
};

use crate::{
    api_key::api_key::pepper,
    support::{
        calm::on_a_calm_machine,
        redis::{Cluster, Fault, Proxy, Server, keys},
    },
};

/// The timeout of a call to a node. A live node replies sooner, also on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The time until the other nodes promote a replica, in milliseconds: longer than any fault here.
const NODE_TIMEOUT_MS: &str = "60000";

/// The number of calls in a fault that makes them time out. Most must fail immediately: if each one
/// waited for its timeout, they would take longer than `PATIENCE`.
const MANY: usize = 20;

/// The minimum duration of a fault.
const SHORT: Duration = Duration::from_millis(300);

/// The longest wait for anything on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// More than is ever asked for.
const LIMIT: u64 = 1_000_000;

/// A Cluster of which one node, the one with the records of keys, is asked through a proxy.
struct Scene {
    cluster: Cluster,
    proxy: Proxy,
    store: RedisStore,
    policy: Policy,
    /// The node's number.
    node: usize,
    /// A partition of that node, and some of the others.
    near: StoreKey,
    far: Vec<StoreKey>,
    key: KeyId,
    /// The number of known charges to the partition of the node, and of possible further ones.
    charged: Cell<u64>,
    unknown: Cell<u64>,
}

/// The results of the calls to the failing node.
#[derive(Debug, Default)]
struct Seen {
    limits: Vec<Option<StoreErrorKind>>,
    keys: Vec<Option<StoreErrorKind>>,
}

fn store(cluster: &Cluster, timeout: Duration) -> RedisStore {
    let config = RedisConfig::cluster(cluster.urls())
        .rate_limit_timeout(timeout)
        .api_key_timeout(timeout)
        .connect_timeout(timeout)
        .idle_timeout(timeout);
    RedisStore::new(config, keys()).unwrap()
}

fn count_of(server: &Server, what: &str) -> usize {
    let names = server.keys();
    names.iter().filter(|name| name.contains(what)).count()
}

async fn until(is_so: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < PATIENCE, "it never becomes so");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Scene {
    async fn new() -> Self {
        let cluster = Cluster::start();
        let setting_up = store(&cluster, Duration::from_secs(10));
        let ring = KeyRing::builder("acmepay", setting_up.clone()).pepper(pepper());
        let manager = KeyManager::new(&ring.build().unwrap());
        let key = manager.create(NewKey::new("a")).await.unwrap().id();
        let primaries = cluster.primaries();
        let has_keys = |number: &usize| count_of(&primaries[*number], ":k:{") > 0;
        let node = (0..3).find(has_keys).unwrap();
        let policy = Policy::fixed_window("p", Quota::per_hour(LIMIT)).unwrap();
        let (mut near, mut far, mut number) = (None, Vec::new(), 0_u64);
        while near.is_none() || far.len() < 4 {
            number += 1;
            let partition = keys().space("faults").short_key(&number.to_le_bytes());
            let before = count_of(&primaries[node], ":l:{");
            let taken = setting_up.take(&partition, &[Charge::new(&policy, 1)]);
            taken.await.unwrap();
            match count_of(&primaries[node], ":l:{") > before {
                true => near = near.or(Some(partition)),
                false => far.push(partition),
            }
        }
        for server in cluster.servers() {
            server.ask(&["CONFIG", "SET", "cluster-node-timeout", NODE_TIMEOUT_MS]);
        }
        // From now on the node is where the proxy is, for all that ask.
        let proxy = Proxy::new(primaries[node].addr());
        let port = proxy.addr().port().to_string();
        primaries[node].ask(&["CONFIG", "SET", "cluster-announce-port", &port]);
        until(async || {
            let slots = |server: &Server| server.ask(&["CLUSTER", "SLOTS"]).as_text();
            cluster
                .servers()
                .iter()
                .all(|server| slots(server).contains(&port))
        })
        .await;
        Self {
            near: near.unwrap(),
            charged: Cell::new(0),
            unknown: Cell::new(0),
            store: store(&cluster, TIMEOUT),
            proxy,
            policy,
            node,
            far,
            key,
            cluster,
        }
    }

    fn main(&self) -> &Server {
        &self.cluster.primaries()[self.node]
    }

    async fn take(&self, partition: &StoreKey) -> Option<StoreErrorKind> {
        let taken = self.store.take(partition, &[Charge::new(&self.policy, 1)]);
        taken.await.err().map(|error| error.kind())
    }

    /// Sends calls to the failing node, `min_calls` of each kind at least, and to the others, whose
    /// calls all succeed.
    async fn load(&self, min_calls: usize) -> Seen {
        let begun = Instant::now();
        let goes_on = |calls: usize| {
            assert!(begun.elapsed() < PATIENCE, "{calls} calls");
            calls < min_calls || begun.elapsed() < SHORT
        };
        let pending = Cell::new(2);
        let limits = async {
            let mut seen = Vec::new();
            while goes_on(seen.len()) {
                let asked = Instant::now();
                let failure = self.take(&self.near).await;
                assert!(asked.elapsed() < 2 * TIMEOUT, "late: {failure:?}");
                match failure {
                    None => self.charged.update(|charged| charged + 1),
                    Some(StoreErrorKind::Timeout) => self.unknown.update(|unknown| unknown + 1),
                    Some(_) => {}
                }
                seen.push(failure);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            pending.update(|pending| pending - 1);
            seen
        };
        let records = async {
            let mut seen = Vec::new();
            while goes_on(seen.len()) {
                let found = self.store.find(self.key).await;
                seen.push(found.err().map(|error| error.kind()));
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            pending.update(|pending| pending - 1);
            seen
        };
        let others = async {
            while pending.get() > 0 {
                for partition in &self.far {
                    let failure = self.take(partition).await;
                    assert_eq!(failure, None, "of a living node: {:?}", self.store);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let (limits, keys, ()) = tokio::join!(limits, records, others);
        Seen { limits, keys }
    }

    /// Lets a fault last and end, and checks that the node replies again and has charged no
    /// partition twice. Returns the results.
    async fn endure(&self, min_calls: usize, begin: impl FnOnce(), end: impl FnOnce()) -> Seen {
        until(async || self.store.reset(&self.near, &[&self.policy]).await.is_ok()).await;
        self.charged.set(0);
        self.unknown.set(0);
        begin();
        let seen = self.load(min_calls).await;
        end();
        until(async || self.store.find(self.key).await.is_ok()).await;
        until(async || {
            let charge = [Charge::new(&self.policy, 1)];
            let Ok(peek) = self.store.peek(&self.near, &charge).await else {
                return false;
            };
            let used = LIMIT - 1 - peek.each()[0].remaining();
            let (charged, unknown) = (self.charged.get(), self.unknown.get());
            let bounds = charged..=charged + unknown;
            assert!(bounds.contains(&used), "{used} of {bounds:?}");
            true
        })
        .await;
        seen
    }
}

/// Checks that calls failed, of both kinds, and only so.
fn failed_by(seen: &Seen, kinds: &[StoreErrorKind]) {
    for calls in [&seen.limits, &seen.keys] {
        assert!(
            calls.iter().any(Option::is_some),
            "nothing failed: {seen:?}"
        );
        let is_known = |kind: &StoreErrorKind| kinds.contains(kind);
        assert!(calls.iter().flatten().all(is_known), "{seen:?}");
    }
}

#[test]
fn failing_node_affects_only_its_slots_and_charges_at_most_once() {
    on_a_calm_machine(async || {
        use StoreErrorKind::{Full, Timeout, Unavailable};
        let scene = Scene::new().await;
        let (main, proxy) = (scene.main(), &scene.proxy);

        // A black hole: a few calls wait, and then all fail immediately.
        let set = |fault| move || proxy.set(fault);
        let seen = scene
            .endure(MANY, set(Fault::BlackHole), set(Fault::None))
            .await;
        failed_by(&seen, &[Timeout, Unavailable]);

        // A hang, shorter than the others wait before they replace the node.
        let seen = scene.endure(MANY, || main.freeze(), || main.thaw()).await;
        failed_by(&seen, &[Timeout, Unavailable]);

        // Connections that are reset, each new one too.
        let seen = scene.endure(1, set(Fault::Reset), set(Fault::None)).await;
        failed_by(&seen, &[Timeout, Unavailable]);

        // Out of memory, and too few replicas: the node fails calls at once, and charges nothing.
        let config = |name, value| move || drop(main.ask(&["CONFIG", "SET", name, value]));
        let (fill, empty) = (config("maxmemory", "1"), config("maxmemory", "0"));
        let seen = scene.endure(1, fill, empty).await;
        assert!(
            seen.limits.iter().all(|kind| *kind == Some(Full)),
            "{seen:?}"
        );
        assert!(seen.keys.iter().all(Option::is_none), "{seen:?}");
        let name = "min-replicas-to-write";
        let seen = scene.endure(1, config(name, "5"), config(name, "0")).await;
        assert!(
            seen.limits.iter().all(|kind| *kind == Some(Unavailable)),
            "{seen:?}"
        );

        // Flushed scripts are sent again, and no call fails.
        let forget = || drop(main.ask(&["SCRIPT", "FLUSH"]));
        let seen = scene.endure(1, forget, || {}).await;
        let nothing = |seen: &Seen| seen.limits.iter().chain(&seen.keys).all(Option::is_none);
        assert!(nothing(&seen), "{seen:?}");

        // The replica takes over: the old main server becomes a replica, and redirects calls.
        let replica = &scene.cluster.replicas()[scene.node];
        let take_over = || drop(replica.ask(&["CLUSTER", "FAILOVER"]));
        let seen = scene.endure(1, take_over, || {}).await;
        let is_known = |kind: &StoreErrorKind| [Timeout, Unavailable].contains(kind);
        assert!(
            seen.limits.iter().chain(&seen.keys).flatten().all(is_known),
            "{seen:?}"
        );
        until(async || replica.ask(&["ROLE"]).as_text().starts_with("master")).await;
        assert_eq!(scene.take(&scene.near).await, None);

        // Lost data: each quota starts over, no key is known, and no call fails.
        replica.ask(&["FLUSHALL"]);
        assert!(scene.store.find(scene.key).await.unwrap().is_none());
        let taken = scene
            .store
            .take(&scene.near, &[Charge::new(&scene.policy, 1)]);
        assert_eq!(taken.await.unwrap().each()[0].remaining(), LIMIT - 1);
        assert!(nothing(&scene.load(1).await));
        assert_eq!(replica.keys_without_expiry(), [""; 0]);
    });
}
