//! Purges: the cost of an unsafe request, by the number of stored entries.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use http::{Method, Request, Response};
use portcullis::cache::{CacheLayer, CacheStore};
use portcullis::store::{MemoryStore, TieredStore};
use tower::{Layer, Service, ServiceExt, util::BoxCloneSyncService};

use crate::harness::{Case, Rate, Run, Who};
use crate::workload::redis::{Server, ask_at_once, runtime, store};
use crate::workload::{CachedOrigin, answered};

/// Room for all entries.
const BYTES: u64 = 256 << 20;

/// Each case is compared with the same store without entries, so that the ratio is their cost.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, entries) in [
        ("purges/memory/0", 0),
        ("purges/memory/2k", 2_000),
        ("purges/memory/20k", 20_000),
    ] {
        cases.push(Case::ours(name, in_memory(entries)).whole());
        cases.push(Case::peer(name, "empty", in_memory(0)).whole());
    }
    for (name, tier, entries) in [
        ("purges/redis/0", Tier::Redis, 0),
        ("purges/redis/2k", Tier::Redis, 2_000),
        ("purges/redis/20k", Tier::Redis, 20_000),
        ("purges/tiered/0", Tier::Tiered, 0),
        ("purges/tiered/2k", Tier::Tiered, 2_000),
        ("purges/tiered/20k", Tier::Tiered, 20_000),
    ] {
        cases.push(Case::rate(name, Who::Ours, on_redis(tier, entries)));
        cases.push(Case::rate(name, Who::Peer("empty"), on_redis(tier, 0)));
    }
    cases
}

fn get(number: usize) -> Request<Body> {
    let request = Request::builder().uri(format!("http://peers.test/page/{number}"));
    request.body(Body::empty()).expect("it is a request")
}

/// Returns an unsafe request to a URL that was never requested.
fn post(number: u64) -> Request<Body> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://peers.test/login?{number}"));
    request.body(Body::empty()).expect("it is a request")
}

fn in_memory(entries: usize) -> Run {
    let store = MemoryStore::builder().max_cache_bytes(BYTES);
    let store = store.build().expect("the bound is right");
    let origin = CachedOrigin::default();
    let mut service = CacheLayer::new(store).layer(origin.service());
    (0..2 * entries).for_each(|number| answered(&mut service, get(number % entries)));
    assert_eq!(origin.asked(), entries as u64, "each entry is stored");
    let mut number = 0;
    Box::new(move |iterations| {
        for _ in 0..iterations {
            number += 1;
            answered(&mut service, post(number));
        }
    })
}

#[derive(Clone, Copy)]
enum Tier {
    Redis,
    Tiered,
}

type App = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

fn on_redis(tier: Tier, entries: usize) -> Rate {
    let (server, runtime) = (Rc::new(Server::start()), runtime());
    let origin = CachedOrigin::default();
    let app = match tier {
        Tier::Redis => app(store(&server), &origin),
        Tier::Tiered => app(TieredStore::new(store(&server), BYTES), &origin),
    };
    runtime.block_on(async {
        // The tiered store fills its memory once its subscription is active.
        ask(&app, get(0)).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        for number in 0..3 * entries {
            ask(&app, get(number % entries)).await;
        }
    });
    let number = Arc::new(AtomicU64::new(0));
    ask_at_once(&server, runtime, move || {
        let (app, number) = (app.clone(), number.fetch_add(1, Ordering::Relaxed));
        async move { ask(&app, post(number)).await }
    })
}

fn app(store: impl CacheStore, origin: &CachedOrigin) -> App {
    let service = CacheLayer::new(store).layer(origin.service());
    BoxCloneSyncService::new(ServiceExt::<Request<Body>>::map_response(
        service,
        |response: Response<_>| response.map(Body::new),
    ))
}

async fn ask(app: &App, request: Request<Body>) {
    let mut app = app.clone();
    let ready = app.ready().await.expect("no layer fails");
    let response = ready.call(request).await.expect("no layer fails");
    to_bytes(response.into_body(), 1 << 20)
        .await
        .expect("the body ends");
}
