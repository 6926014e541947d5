//! The cache on Redis: one command for a hit, and purges that nothing makes undone.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use portcullis::{
    StoreKey,
    cache::{CacheLayer, CachePurger, CacheStore, Purge, PurgeMode, PurgeTarget},
    store::{RedisConfig, RedisStore},
};
use tokio::task::JoinSet;
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{
    get,
    redis::{Reply, Server, keys, patient},
    text,
};

fn store(server: &Server) -> RedisStore {
    RedisStore::new(patient(RedisConfig::single(server.url())), keys()).unwrap()
}

/// How many answers were made in all.
static MADE: AtomicUsize = AtomicUsize::new(0);

/// A service's process: a cache over a connection of its own, and a handler that counts.
#[derive(Clone)]
struct Instance {
    layer: CacheLayer,
    calls: Arc<AtomicUsize>,
}

impl Instance {
    fn at(server: &Server) -> Self {
        Self {
            layer: CacheLayer::new(store(server)),
            calls: Arc::default(),
        }
    }

    fn purger(&self) -> CachePurger {
        self.layer.purger()
    }

    async fn purge(&self, what: Purge, mode: PurgeMode) {
        self.purger().purge([what], mode).await.unwrap();
    }

    async fn get(&self, path: &str) -> String {
        self.send(get(&format!("http://acme.test{path}"))).await
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> String {
        let calls = Arc::clone(&self.calls);
        let handler = service_fn(move |request: Request<Full<Bytes>>| {
            calls.fetch_add(1, Ordering::SeqCst);
            // No two answers are the same, whichever instance makes them.
            let call = MADE.fetch_add(1, Ordering::SeqCst);
            let response = Response::builder()
                .header("cache-control", "max-age=60")
                .header("cache-tag", "all, some")
                .header("vary", "accept");
            let vary = request.headers().get("accept").cloned();
            let body = format!("{} {vary:?} made {call}", request.uri().path());
            async move { Ok::<_, Infallible>(response.body(Full::<Bytes>::from(body)).unwrap()) }
        });
        let response = self.layer.layer(handler).oneshot(request).await;
        text(response.unwrap()).await
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// Asks until an answer is shown again: it is kept beside the request.
    async fn warm(&self, path: &str, server: &Server) -> String {
        loop {
            let shown = self.get(path).await;
            settle(server).await;
            let before = self.calls();
            if self.get(path).await == shown && self.calls() == before {
                return shown;
            }
        }
    }
}

/// Where a single server keeps what was purged.
const PURGES: &str = "portcullis:c:{AA}:purges";

fn is_answer(name: &str) -> bool {
    name.contains(":c:{") && !name.ends_with(":purges")
}

fn commands(server: &Server) -> u64 {
    server.calls_of("evalsha") + server.calls_of("eval")
}

/// Waits until nothing is under way.
async fn settle(server: &Server) {
    loop {
        let before = commands(server);
        tokio::time::sleep(Duration::from_millis(10)).await;
        if commands(server) == before {
            return;
        }
    }
}

#[tokio::test]
async fn a_hit_is_one_command_and_what_one_instance_made_all_show() {
    let server = Server::start();
    let (one, other) = (Instance::at(&server), Instance::at(&server));
    let made = one.warm("/a", &server).await;
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
    let (one, other) = (Instance::at(&server), Instance::at(&server));
    let url = || Purge::uri("http://acme.test/a".parse().unwrap());
    for purge in [url(), Purge::tag("some"), Purge::All] {
        let shown = other.warm("/a", &server).await;
        one.purge(purge, PurgeMode::Hard).await;
        assert_ne!(other.get("/a").await, shown);
    }
    let shown = other.warm("/a", &server).await;
    one.purge(Purge::tag("of nothing"), PurgeMode::Hard).await;
    assert_eq!(other.get("/a").await, shown);
}

#[tokio::test]
async fn a_purge_that_the_server_loses_brings_nothing_back() {
    let server = Server::start();
    let instance = Instance::at(&server);
    let purged = instance.warm("/a", &server).await;
    instance.purge(Purge::tag("some"), PurgeMode::Hard).await;
    // As if it was evicted, or lost with a node of its own.
    assert_eq!(server.ask(&["DEL", PURGES]), Reply::Int(1));
    assert_ne!(instance.get("/a").await, purged);
    let anew = instance.warm("/a", &server).await;
    assert_eq!(instance.get("/a").await, anew);
}

#[tokio::test]
async fn more_purges_than_are_remembered_lose_answers_and_bring_none_back() {
    let server = Server::start();
    let instance = Instance::at(&server);
    let purged = instance.warm("/a", &server).await;
    let kept = instance.warm("/b", &server).await;
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
    let anew = instance.warm("/b", &server).await;
    assert_eq!(instance.get("/b").await, anew);
}

#[tokio::test]
async fn a_full_server_keeps_nothing_new_and_still_lets_go() {
    let server = Server::start();
    let instance = Instance::at(&server);
    let shown = instance.warm("/a", &server).await;
    server.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_eq!(instance.get("/a").await, shown);
    let made = instance.get("/b").await;
    assert_ne!(instance.get("/b").await, made, "there is no room for it");
    instance.purge(Purge::tag("some"), PurgeMode::Hard).await;
    assert_ne!(instance.get("/a").await, shown);
    server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_ne!(instance.get("/a").await, shown);
    instance.warm("/a", &server).await;
}

#[tokio::test]
async fn what_somebody_damaged_is_made_anew_and_dropped() {
    let server = Server::start();
    let instance = Instance::at(&server);
    let mut client = server.client();
    for damage in [&b""[..], b"x", &[0xff; 600]] {
        for field in [b'h', b'b', b'm'] {
            let shown = instance.warm("/a", &server).await;
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
    let (one, other) = (Instance::at(&server), Instance::at(&server));
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
    let instance = Instance::at(&server);
    instance.warm("/a", &server).await;
    let names = server.keys();
    let name = names.iter().find(|name| is_answer(name)).unwrap();
    let usage = server.ask(&["MEMORY", "USAGE", name, "SAMPLES", "0"]);
    let usage = usage.as_int();
    assert!((800..1_600).contains(&usage), "{usage} bytes");
}

#[tokio::test]
async fn several_instances_make_an_answer_once() {
    let server = Server::start();
    let instances = [(); 3].map(|()| Instance::at(&server));
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
