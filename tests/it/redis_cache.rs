//! The cache on Redis: one command for a hit, and purges that nothing makes undone.

use std::time::Duration;

use portcullis::{
    ManualClock, StoreKey,
    cache::{CacheLayer, CacheStore, Purge, PurgeMode, PurgeTarget},
    store::{RedisConfig, RedisStore},
};
use tokio::task::JoinSet;

use crate::support::{
    get,
    instance::{Instance, commands, settle},
    redis::{Reply, Server, keys, patient},
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

/// Asks until an answer is shown again: it is kept beside the request.
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

/// Where a single server keeps what was purged.
const PURGES: &str = "portcullis:c:{AA}:purges";

fn is_answer(name: &str) -> bool {
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

#[tokio::test]
async fn more_purges_than_are_remembered_lose_answers_and_bring_none_back() {
    let server = Server::start();
    let instance = instance(&server);
    let purged = warm(&instance, "/a", &server).await;
    let kept = warm(&instance, "/b", &server).await;
    let url = Purge::uri("http://acme.test/a".parse().unwrap());
    instance.purge(url, PurgeMode::Hard).await;
    let store = store(&server);
    for part in 0..8_u64 {
        let targets: Vec<_> = (0..9_000_u64)
            .map(|number| u128::from(part << 32 | number).to_le_bytes())
            .map(|digest| PurgeTarget::Tag(StoreKey::from_bytes(digest)))
            .collect();
        store.purge(&targets, PurgeMode::Hard).await.unwrap();
    }
    let remembered = server.ask(&["ZCARD", PURGES]).as_int();
    assert!(remembered <= (1 << 16) + 1, "{remembered}");
    assert_ne!(instance.get("/a").await, purged);
    assert_ne!(instance.get("/b").await, kept);
    let anew = warm(&instance, "/b", &server).await;
    assert_eq!(instance.get("/b").await, anew);
}

#[tokio::test]
async fn a_full_server_keeps_nothing_new_and_still_lets_go() {
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
async fn what_somebody_damaged_is_made_anew_and_dropped() {
    let server = Server::start();
    let instance = instance(&server);
    let mut client = server.client();
    for damage in [&b""[..], b"x", &[0xff; 600]] {
        for field in [b'h', b'b', b'm'] {
            let shown = warm(&instance, "/a", &server).await;
            let names = server.keys();
            let name = names.iter().find(|name| is_answer(name)).unwrap();
            let Some(Reply::Array(fields)) = client.ask(&[b"HKEYS", name.as_bytes()]) else {
                panic!("no answer is kept");
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
async fn an_answer_takes_what_the_guide_says() {
    let server = Server::start();
    let instance = instance(&server);
    warm(&instance, "/a", &server).await;
    let names = server.keys();
    let name = names.iter().find(|name| is_answer(name)).unwrap();
    let usage = server.ask(&["MEMORY", "USAGE", name, "SAMPLES", "0"]);
    let usage = usage.as_int();
    assert!((800..1_600).contains(&usage), "{usage} bytes");
}

#[tokio::test]
async fn several_instances_make_an_answer_once() {
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
async fn several_instances_make_what_is_stale_anew_once() {
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
        // Who looks late finds what was made anew meanwhile.
        let anew = instances[0].get("/a").await;
        assert!(shown.contains(&stale), "{shown:?}");
        assert!(
            shown.iter().all(|body| *body == stale || *body == anew),
            "{shown:?}, {anew}"
        );
    }
}
