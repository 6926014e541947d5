//! The store on a Cluster, and on a server that Sentinels watch.

use std::time::{Duration, Instant};

use portcullis::{
    StoreKey, conformance,
    rate_limit::{Charge, Policy, Quota, RateLimitStore},
    store::{RedisConfig, RedisStore},
};

use crate::support::redis::{Cluster, Watched, keys};

fn partition(number: u64) -> StoreKey {
    keys().space("cluster").short_of(&number.to_le_bytes())
}

fn hasty(config: RedisConfig) -> RedisStore {
    // Who dies is noticed soon; who lives may take its time on a busy machine.
    let config = config
        .rate_limit_deadline(Duration::from_secs(2))
        .connect_deadline(Duration::from_secs(2))
        .silence_max(Duration::from_secs(2));
    RedisStore::new(config, keys()).unwrap()
}

fn policy() -> Policy {
    Policy::fixed_window("p", Quota::per_hour(1_000)).unwrap()
}

async fn take(store: &RedisStore, number: u64) -> bool {
    let policy = policy();
    let charge = [Charge::new(&policy, 1)];
    store.take(&partition(number), &charge).await.is_ok()
}

/// Takes until that succeeds, and says how long it took.
async fn until_taken(store: &RedisStore, number: u64) -> Duration {
    let begun = Instant::now();
    while !take(store, number).await {
        assert!(begun.elapsed() < Duration::from_secs(40), "{store:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    begun.elapsed()
}

#[tokio::test]
async fn a_cluster_keeps_the_promises_of_limits() {
    let cluster = Cluster::start();
    // One node knows the others.
    let store = hasty(RedisConfig::cluster([cluster.servers[4].url()]));
    let pause = async |time| tokio::time::sleep(time).await;
    conformance::rate_limit(&store, pause).await;
    for server in &cluster.servers[..3] {
        assert!(!server.keys().is_empty(), "not all nodes are used");
        assert_eq!(server.keys_without_expiry(), [""; 0]);
    }
    assert_eq!(store.stats().downs, 0);
}

#[tokio::test]
async fn a_node_that_dies_hurts_its_slots_alone_until_its_replica_takes_over() {
    let mut cluster = Cluster::start();
    let store = hasty(RedisConfig::cluster(cluster.urls()));
    let mut homes = Vec::new();
    for number in 0..30 {
        let before: Vec<_> = cluster.servers[..3]
            .iter()
            .map(|s| s.keys().len())
            .collect();
        until_taken(&store, number).await;
        let grown = |home: &usize| cluster.servers[*home].keys().len() > before[*home];
        homes.push((0..3).find(grown).unwrap());
    }
    let of = |home| (0..30).filter(move |number| homes[*number as usize] == home);
    let (dying, living): (Vec<u64>, Vec<u64>) = {
        let dying: Vec<u64> = of.clone()(1).collect();
        (dying, of.clone()(0).chain(of(2)).collect())
    };
    assert!(!dying.is_empty() && !living.is_empty());
    cluster.servers[1].kill();
    let begun = Instant::now();
    let mut refused = 0;
    while begun.elapsed() < Duration::from_millis(900) {
        for number in &living {
            assert!(
                take(&store, *number).await,
                "slot of a living node: {store:?}"
            );
        }
        let asked = Instant::now();
        if !take(&store, dying[0]).await {
            refused += 1;
            assert!(
                asked.elapsed() < Duration::from_secs(1),
                "{:?}",
                asked.elapsed()
            );
        }
    }
    assert!(refused > 0);
    until_taken(&store, dying[0]).await;
    assert_eq!(store.stats().down, 0, "{store:?}");
}

#[tokio::test]
async fn a_slot_that_moves_is_followed_and_no_call_fails() {
    let cluster = Cluster::start();
    let store = hasty(RedisConfig::cluster(cluster.urls()));
    assert!(take(&store, 1).await);
    let holds = |home: &usize| !cluster.servers[*home].keys().is_empty();
    let from = (0..3).find(holds).unwrap();
    let to = (from + 1) % 3;
    let (old, new) = (&cluster.servers[from], &cluster.servers[to]);
    let key = old.keys().remove(0);
    let slot = old.ask(&["CLUSTER", "KEYSLOT", &key]).as_text();
    let id = |number: usize| cluster.servers[number].ask(&["CLUSTER", "MYID"]).as_text();
    new.ask(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(from)]);
    old.ask(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(to)]);
    assert!(take(&store, 1).await, "not moved yet");
    let port = new.addr.port().to_string();
    old.ask(&["MIGRATE", "127.0.0.1", &port, &key, "0", "5000"]);
    assert!(
        take(&store, 1).await,
        "moved, and the old node says where to ask"
    );
    assert_eq!(new.keys().as_slice(), std::slice::from_ref(&key));
    for server in [new, old] {
        server.ask(&["CLUSTER", "SETSLOT", &slot, "NODE", &id(to)]);
    }
    for _ in 0..3 {
        assert!(take(&store, 1).await, "the old node says who has the slot");
    }
    let policy = policy();
    let left = store.peek(&partition(1), &[Charge::new(&policy, 0)]).await;
    assert_eq!(left.unwrap().each()[0].remaining(), 1_000 - 6);
}

#[tokio::test]
async fn a_cluster_that_is_away_fails_calls_at_once_and_heals() {
    let mut cluster = Cluster::start();
    let urls = cluster.urls();
    for server in &cluster.servers {
        server.freeze();
    }
    let config = RedisConfig::cluster(urls);
    let store = RedisStore::new(config, keys()).unwrap();
    let begun = Instant::now();
    assert!(!take(&store, 1).await);
    assert!(begun.elapsed() < Duration::from_secs(1));
    tokio::time::sleep(Duration::from_millis(60)).await;
    for _ in 0..20 {
        let asked = Instant::now();
        assert!(!take(&store, 1).await);
        assert!(asked.elapsed() < Duration::from_millis(10));
    }
    for server in &mut cluster.servers {
        server.thaw();
    }
    let healed_in = until_taken(&store, 1).await;
    assert!(healed_in < Duration::from_secs(8), "{healed_in:?}");
}

#[tokio::test]
async fn a_failover_by_sentinel_is_followed() {
    let mut watched = Watched::start();
    let config = RedisConfig::sentinel(watched.urls(), "main");
    let store = hasty(config);
    until_taken(&store, 1).await;
    let on = |keys: Vec<String>| keys.iter().any(|key| key.contains(":l:"));
    assert!(on(watched.main.keys()), "asked the replica");
    watched.main.kill();
    // The store hears of it at once, and until there is another main server fails calls at once.
    while store.stats().down == 0 {
        take(&store, 1).await;
    }
    let asked = Instant::now();
    assert!(!take(&store, 1).await);
    assert!(asked.elapsed() < Duration::from_secs(1));
    until_taken(&store, 1).await;
    assert!(on(watched.replica.keys()));
}

#[tokio::test]
async fn a_name_that_no_sentinel_knows_is_misconfigured() {
    let watched = Watched::start();
    let config = RedisConfig::sentinel(watched.urls(), "other");
    let store = hasty(config);
    assert!(!take(&store, 1).await);
    assert_eq!(store.stats().down, 1);
}
