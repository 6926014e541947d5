//! The cache on Redis: one command for a hit, and purges that nothing makes undone.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use http::Method;
use portcullis::{
    ManualClock, StoreFuture,
    cache::{CacheLayer, CacheStore, Purge, PurgeMode},
    store::{
        RedisConfig, RedisStore,
        backend::{CacheKey, Lookup, PurgeTarget, Put, PutOutcome, Selection, StoreKey, Touch},
    },
};
use tokio::task::JoinSet;

use crate::support::{
    get,
    hands::Hands,
    instance::{Instance, commands, settle},
    redis::{Reply, Server, keys, patient},
    request,
    trickle::{End, Streaming, Trickle, assert_all},
};

fn store(server: &Server) -> RedisStore {
    RedisStore::new(patient(RedisConfig::single(server.url())), keys()).unwrap()
}

const FIELDS: &[(&str, &str)] = &[
    ("cache-control", "max-age=60"),
    ("cache-tag", "all, some"),
    ("vary", "accept"),
];

fn instance(server: &Server) -> Instance {
    Instance::new(CacheLayer::new(store(server)), FIELDS)
}

/// Sends requests until the response is a cache hit: the store runs in the background.
async fn warm(instance: &Instance, path: &str, server: &Server) -> String {
    loop {
        let shown = instance.get(path).await;
        settle(server).await;
        let before = instance.calls();
        if instance.get(path).await == shown && instance.calls() == before {
            return shown;
        }
    }
}

/// The key of the purges on a single server.
const PURGES: &str = "portcullis:c:{AA}:purges";

fn is_entry_key(name: &str) -> bool {
    name.contains(":c:{") && !name.ends_with(":purges")
}

#[tokio::test]
async fn a_hit_is_one_command_and_what_one_instance_made_all_show() {
    let server = Server::start();
    let (one, other) = (instance(&server), instance(&server));
    let made = warm(&one, "/a", &server).await;
    assert_eq!(other.get("/a").await, made);
    assert_eq!(other.calls(), 0);
    let before = commands(&server);
    for _ in 0..10 {
        assert_eq!(other.get("/a").await, made);
    }
    assert_eq!(commands(&server) - before, 10);
    assert_eq!(server.keys_without_expiry(), [""; 0]);
}

#[tokio::test]
async fn purge_and_unsafe_request_reach_every_spelling_of_a_url_on_every_instance() {
    let server = Server::start();
    let (one, other) = (instance(&server), instance(&server));
    for spelling in ["/a%2Fb", "/%61%2fb"] {
        for reach in [
            "http://acme.test:80/a%2Fb",
            "https://acme.test:443/a%2fb",
            "",
        ] {
            let shown = warm(&other, spelling, &server).await;
            one.purge(
                Purge::uri("http://acme.test/a/b".parse().unwrap()),
                PurgeMode::Hard,
            )
            .await;
            assert_eq!(other.get(spelling).await, shown);
            match reach {
                "" => drop(
                    one.send(request(Method::POST, "http://acme.test:80/a%2fb"))
                        .await,
                ),
                url => {
                    one.purge(Purge::uri(url.parse().unwrap()), PurgeMode::Hard)
                        .await
                }
            }
            assert_ne!(other.get(spelling).await, shown, "{spelling} {reach}");
        }
    }
}

#[tokio::test]
async fn a_purge_of_one_instance_is_seen_by_the_next_look_of_every_other() {
    let server = Server::start();
    let (one, other) = (instance(&server), instance(&server));
    let url = || Purge::uri("http://acme.test/a".parse().unwrap());
    for purge in [url(), Purge::tag("some"), Purge::All] {
        let shown = warm(&other, "/a", &server).await;
        one.purge(purge, PurgeMode::Hard).await;
        assert_ne!(other.get("/a").await, shown);
    }
    let shown = warm(&other, "/a", &server).await;
    one.purge(Purge::tag("of nothing"), PurgeMode::Hard).await;
    assert_eq!(other.get("/a").await, shown);
}

#[tokio::test]
async fn entry_stored_under_another_target_list_is_not_served_but_purged() {
    const PRIVATE: &[(&str, &str)] = &[
        ("cache-control", "private"),
        ("cdn-cache-control", "max-age=60"),
        ("cache-tag", "some"),
    ];
    let server = Server::start();
    let listing = CacheLayer::secure(store(&server)).targeted_field("CDN-Cache-Control");
    let listing = Instance::new(listing.build().unwrap(), PRIVATE);
    let other = Instance::new(CacheLayer::new(store(&server)), PRIVATE);
    let stored = warm(&listing, "/a", &server).await;
    for _ in 0..2 {
        assert_ne!(other.get("/a").await, stored);
    }
    assert_eq!(other.calls(), 2);
    other.purge(Purge::tag("some"), PurgeMode::Hard).await;
    assert_ne!(listing.get("/a").await, stored);
}

#[tokio::test]
async fn a_purge_that_the_server_loses_brings_nothing_back() {
    let server = Server::start();
    let instance = instance(&server);
    let purged = warm(&instance, "/a", &server).await;
    instance.purge(Purge::tag("some"), PurgeMode::Hard).await;
    // As if it was evicted, or lost with a node of its own.
    assert_eq!(server.ask(&["DEL", PURGES]), Reply::Int(1));
    assert_ne!(instance.get("/a").await, purged);
    let anew = warm(&instance, "/a", &server).await;
    assert_eq!(instance.get("/a").await, anew);
}

/// Purges this number of names that no entry has, in calls of 9 000.
async fn purge_made_up_names(store: &RedisStore, calls: u64, mode: PurgeMode) {
    for part in 0..calls {
        let targets: Vec<_> = (0..9_000_u64)
            .map(|number| (number, u128::from(part << 32 | number).to_le_bytes()))
            .map(|(number, digest)| (number, StoreKey::from_bytes(digest)))
            .map(|(number, name)| match number % 3 {
                0 => PurgeTarget::Tag(name),
                1 => PurgeTarget::Partition(name),
                _ => PurgeTarget::Uri(name),
            })
            .collect();
        store.purge(&targets, mode).await.unwrap();
    }
}

#[tokio::test]
async fn more_purges_than_are_recorded_remove_no_other_entry_and_bring_none_back() {
    let server = Server::start();
    let instance = instance(&server);
    let purged = warm(&instance, "/a", &server).await;
    let kept = warm(&instance, "/b", &server).await;
    let url = Purge::uri("http://acme.test/a".parse().unwrap());
    instance.purge(url, PurgeMode::Hard).await;
    let (store, keys) = (store(&server), server.keys().len());
    for mode in [PurgeMode::Hard, PurgeMode::Soft] {
        purge_made_up_names(&store, 8, mode).await;
        let recorded = server.ask(&["ZCARD", PURGES]).as_int();
        assert!(recorded <= (1 << 16) + 1, "{recorded}");
        assert!(server.keys().len() <= keys, "a purge creates no key");
        assert_eq!(instance.get("/b").await, kept);
    }
    assert_ne!(instance.get("/a").await, purged);
    let anew = warm(&instance, "/a", &server).await;
    assert_eq!(instance.get("/a").await, anew);
}

#[tokio::test]
async fn purge_reaches_its_names_after_more_purges_than_are_recorded() {
    let server = Server::start();
    let (one, other) = (instance(&server), instance(&server));
    let url = || Purge::uri("http://acme.test/a".parse().unwrap());
    for purge in [url(), Purge::tag("some"), Purge::All] {
        let shown = warm(&other, "/a", &server).await;
        purge_made_up_names(&store(&server), 8, PurgeMode::Hard).await;
        one.purge(purge, PurgeMode::Hard).await;
        assert_ne!(other.get("/a").await, shown);
    }
}

/// An entry whose only name that is purged here is a URL, and a fill of it that can be held up.
struct Fill {
    store: RedisStore,
    probe: Arc<Probe>,
    layer: CacheLayer,
}

/// Remembers the last entry that a cache put.
struct Probe {
    store: RedisStore,
    put: Mutex<Option<Put>>,
}

impl CacheStore for Probe {
    fn keys(&self) -> &portcullis::store::StoreKeys {
        CacheStore::keys(&self.store)
    }

    fn get(&self, key: &CacheKey, selection: &Selection<'_>) -> StoreFuture<Lookup> {
        self.store.get(key, selection)
    }

    fn put(&self, put: Put) -> StoreFuture<PutOutcome> {
        *self.put.lock().unwrap() = Some(put);
        StoreFuture::ready(PutOutcome::Stored)
    }

    fn touch(&self, touch: Touch) -> StoreFuture<bool> {
        self.store.touch(touch)
    }

    fn purge(&self, targets: &[PurgeTarget], mode: PurgeMode) -> StoreFuture<()> {
        CacheStore::purge(&self.store, targets, mode)
    }
}

impl Fill {
    fn new(server: &Server) -> Self {
        let probe = Arc::new(Probe {
            store: store(server),
            put: Mutex::default(),
        });
        Self {
            store: store(server),
            layer: CacheLayer::new(Arc::clone(&probe)),
            probe,
        }
    }

    /// Looks up, and returns the fill that follows.
    async fn begin(&self, path: &str) -> Put {
        let instance = Instance::new(self.layer.clone(), FIELDS);
        instance.get(path).await;
        loop {
            if let Some(put) = self.probe.put.lock().unwrap().take() {
                return put;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn purge(&self, target: PurgeTarget, mode: PurgeMode) {
        self.store.purge(&[target], mode).await.unwrap();
    }
}

#[tokio::test]
async fn fill_in_flight_is_refused_after_a_purge_of_its_names_and_stored_after_one_of_others() {
    let server = Server::start();
    let fill = Fill::new(&server);
    let put = fill.begin("/a").await;
    let other = PurgeTarget::Uri(StoreKey::from_bytes([7; 16]));
    fill.purge(other, PurgeMode::Hard).await;
    assert_eq!(fill.store.put(put).await.unwrap(), PutOutcome::Stored);
    let own = [
        PurgeTarget::Uri(*fill.begin("/b").await.key.uri()),
        PurgeTarget::All,
    ];
    for target in own {
        let put = fill.begin("/b").await;
        fill.purge(target, PurgeMode::Hard).await;
        assert_eq!(fill.store.put(put).await.unwrap(), PutOutcome::Purged);
    }
}

#[tokio::test]
async fn fill_in_flight_is_rejected_if_its_purge_may_be_evicted() {
    let server = Server::start();
    let fill = Fill::new(&server);
    // More purges than are recorded.
    let put = fill.begin("/a").await;
    let uri = PurgeTarget::Uri(*put.key.uri());
    fill.purge(uri, PurgeMode::Hard).await;
    purge_made_up_names(&fill.store, 8, PurgeMode::Hard).await;
    assert_eq!(fill.store.put(put).await.unwrap(), PutOutcome::Purged);
    // The record is lost.
    let put = fill.begin("/a").await;
    fill.purge(uri, PurgeMode::Hard).await;
    server.ask(&["DEL", PURGES]);
    assert_eq!(fill.store.put(put).await.unwrap(), PutOutcome::Purged);
    let put = fill.begin("/a").await;
    assert_eq!(fill.store.put(put).await.unwrap(), PutOutcome::Stored);
}

#[tokio::test]
async fn lost_record_of_recent_purges_loses_no_entry() {
    let server = Server::start();
    let instance = instance(&server);
    let shown = warm(&instance, "/a", &server).await;
    server.ask(&["DEL", PURGES]);
    assert_eq!(instance.get("/a").await, shown);
}

#[tokio::test]
async fn lost_token_takes_its_entries_along_and_brings_none_back() {
    let server = Server::start();
    let instance = instance(&server);
    let tokens = || {
        let mut names = server.keys();
        names.retain(|name| name.contains(":n:{"));
        names
    };
    warm(&instance, "/a", &server).await;
    // Everything, the URL, the shared partition, and two tags.
    assert_eq!(tokens().len(), 5);
    for token in tokens() {
        let shown = warm(&instance, "/a", &server).await;
        let other = warm(&instance, "/b", &server).await;
        assert_eq!(server.ask(&["DEL", &token]), Reply::Int(1));
        // Another entry gets new tokens, which are none of the lost entry.
        warm(&instance, "/c", &server).await;
        assert_ne!(instance.get("/a").await, shown);
        let is_url = token.contains(":n:{AA}:u");
        assert_eq!(instance.get("/b").await == other, is_url, "{token}");
    }
}

#[tokio::test]
async fn tokens_outlive_the_entries_that_list_them() {
    let server = Server::start();
    let instance = instance(&server);
    warm(&instance, "/a", &server).await;
    let mut client = server.client();
    let mut left = |name: &String| {
        let left = client.ask(&[b"PTTL", name.as_bytes()]).unwrap();
        left.as_int()
    };
    let names = server.keys();
    let longest = names
        .iter()
        .filter(|name| is_entry_key(name))
        .map(&mut left);
    let longest = longest.max().unwrap();
    let tokens = names.iter().filter(|name| name.contains(":n:{"));
    assert!(tokens.map(left).all(|left| left > longest));
}

#[tokio::test]
async fn full_server_stores_nothing_new_and_still_purges() {
    let server = Server::start();
    let instance = instance(&server);
    let shown = warm(&instance, "/a", &server).await;
    server.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_eq!(instance.get("/a").await, shown);
    let made = instance.get("/b").await;
    assert_ne!(instance.get("/b").await, made, "there is no room for it");
    instance.purge(Purge::tag("some"), PurgeMode::Hard).await;
    assert_ne!(instance.get("/a").await, shown);
    server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_ne!(instance.get("/a").await, shown);
    warm(&instance, "/a", &server).await;
}

#[tokio::test]
async fn damaged_entry_is_a_miss_and_is_replaced() {
    let server = Server::start();
    let instance = instance(&server);
    let mut client = server.client();
    for damage in [&b""[..], b"x", &[0xff; 600]] {
        for field in [b'h', b'b', b'm'] {
            let shown = warm(&instance, "/a", &server).await;
            let names = server.keys();
            let name = names.iter().find(|name| is_entry_key(name)).unwrap();
            let Some(Reply::Array(fields)) = client.ask(&[b"HKEYS", name.as_bytes()]) else {
                panic!("no response is stored");
            };
            let field = fields.iter().find_map(|own| match own {
                Reply::Bulk(own) if own.len() == 17 && own[0] == field => Some(own),
                _ => None,
            });
            client.ask(&[b"HSET", name.as_bytes(), field.unwrap(), damage]);
            let before = instance.calls();
            assert_ne!(instance.get("/a").await, shown);
            assert_eq!(instance.calls(), before + 1);
        }
    }
}

#[tokio::test]
async fn variants_stand_side_by_side_and_a_process_learns_what_they_vary_by() {
    let server = Server::start();
    let (one, other) = (instance(&server), instance(&server));
    let accepting = |accept: &str| {
        let mut request = get("http://acme.test/v");
        request
            .headers_mut()
            .insert("accept", accept.parse().unwrap());
        request
    };
    let mut made = Vec::new();
    for accept in ["a", "b", "c"] {
        made.push(one.send(accepting(accept)).await);
        settle(&server).await;
    }
    let before = commands(&server);
    for (accept, made) in ["a", "b", "c"].iter().zip(&made) {
        assert_eq!(other.send(accepting(accept)).await, *made);
    }
    // One question more, by whom the first is the first of its kind.
    assert_eq!(commands(&server) - before, 4);
    assert_eq!((one.calls(), other.calls()), (3, 0));
}

#[tokio::test]
async fn entry_memory_matches_the_guide() {
    let server = Server::start();
    let instance = instance(&server);
    warm(&instance, "/a", &server).await;
    let names = server.keys();
    let name = names.iter().find(|name| is_entry_key(name)).unwrap();
    let usage = server.ask(&["MEMORY", "USAGE", name, "SAMPLES", "0"]);
    let usage = usage.as_int();
    assert!((800..1_600).contains(&usage), "{usage} bytes");
}

#[tokio::test]
async fn several_instances_fill_an_entry_once() {
    let server = Server::start();
    let instances = [(); 3].map(|()| instance(&server));
    for path in ["/one", "/two"] {
        let mut asking = JoinSet::new();
        for instance in instances.clone() {
            asking.spawn(async move { instance.get(path).await });
        }
        let shown = asking.join_all().await;
        assert!(shown.iter().all(|body| *body == shown[0]), "{shown:?}");
    }
    assert_eq!(instances.iter().map(Instance::calls).sum::<usize>(), 2);
}

#[tokio::test]
async fn several_instances_refresh_a_stale_entry_once() {
    let server = Server::start();
    let clock = ManualClock::default();
    let fields = &[("cache-control", "max-age=10, stale-while-revalidate=60")];
    let instances = [(); 3].map(|()| {
        let layer = CacheLayer::secure(store(&server)).clock(clock.clone());
        Instance::new(layer.build().unwrap(), fields)
    });
    let calls = || instances.iter().map(Instance::calls).sum::<usize>();
    for round in 1..=3 {
        let stale = warm(&instances[0], "/a", &server).await;
        assert_eq!(calls(), round);
        clock.advance(Duration::from_secs(20));
        let mut asking = JoinSet::new();
        for instance in instances.clone() {
            asking.spawn(async move { instance.get("/a").await });
        }
        let shown = asking.join_all().await;
        settle(&server).await;
        // A late lookup finds the entry that was refreshed meanwhile.
        let anew = instances[0].get("/a").await;
        assert!(shown.contains(&stale), "{shown:?}");
        assert!(
            shown.iter().all(|body| *body == stale || *body == anew),
            "{shown:?}, {anew}"
        );
    }
}

/// Waits until something is so.
async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn requests_of_an_instance_stream_its_fill_until_another_instance_purges_it() {
    let server = Server::start();
    let origin = Trickle::with(&[("cache-control", "max-age=60")]);
    let layer = CacheLayer::secure(store(&server));
    let site = Streaming::over(&origin, Hands::default(), layer);
    let ask = || site.client(get("http://acme.test/a"));
    let leader = ask().await;
    until(|| leader.has_head()).await;
    let waiter = ask().await;
    origin.sends(1, "old, ").await;
    until(|| waiter.body() == "old, ").await;
    assert_eq!(waiter.end(), None);

    let uri = "http://acme.test/a".parse().unwrap();
    let other = CacheLayer::new(store(&server)).purger();
    let purged = other.purge([Purge::uri(uri)], PurgeMode::Hard);
    purged.await.unwrap();
    let late = ask().await;
    origin.sends(1, "all").await;
    origin.ends(1).await;
    until(|| waiter.end().is_some()).await;
    assert_all(&[&leader, &waiter], "old, all", &Some(End::Complete));
    until(|| origin.calls() == 2).await;
    origin.sends(2, "new").await;
    until(|| late.has_head()).await;
    assert_all(&[&late], "new", &None);
}
