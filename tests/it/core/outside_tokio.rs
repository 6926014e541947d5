//! Layers, queues and tasks that are used outside of a Tokio runtime.

use std::{
    convert::Infallible,
    sync::mpsc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use portcullis::{
    Identity, Runtime, TokioRuntime,
    access_log::{AccessLogLayer, LogQuery, LogStore, LogStream, sinks::LogQueue},
    api_key::{ApiKeyLayer, KeyManager, KeyQuery, KeyRing, NewKey, Pepper},
    rate_limit::{Partition, Policy, Quota, RateLimitLayer},
    store::MemoryStore,
};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{get, parked::block_on};

async fn served(_: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::from("served")))
}

#[test]
fn tokio_runtime_spawns_and_sleeps_without_a_runtime() {
    let (sender, receiver) = mpsc::channel();
    let begun = Instant::now();
    block_on(TokioRuntime.sleep(Duration::from_millis(20)));
    assert!(begun.elapsed() >= Duration::from_millis(20));
    TokioRuntime.spawn(Box::pin(async move {
        TokioRuntime.sleep(Duration::from_millis(1)).await;
        sender.send(TokioRuntime.can_spawn()).unwrap();
    }));
    let can_spawn = receiver.recv_timeout(Duration::from_secs(10));
    assert!(can_spawn.unwrap(), "the task runs on a Tokio runtime");
    assert!(!TokioRuntime.can_spawn(), "the caller runs on none");
    assert!(TokioRuntime.try_sleep(Duration::ZERO).is_none());
}

#[test]
fn tokio_runtime_sleeps_in_a_runtime_without_a_timer() {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.build().unwrap();
    let begun = Instant::now();
    runtime.block_on(async {
        for _ in 0..2 {
            TokioRuntime.sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(begun.elapsed() >= Duration::from_millis(40));
}

#[test]
fn queue_of_a_limiter_admits_in_turn() {
    let policy = Policy::leaky_queue("steady", Quota::per_second(50), Duration::from_secs(5));
    let layer = RateLimitLayer::builder(MemoryStore::new(), Partition::identity())
        .policy(policy.unwrap())
        .build()
        .unwrap();
    let begun = Instant::now();
    for _ in 0..3 {
        let mut request = get("/");
        let identity = Identity::builder("k1").build();
        request.extensions_mut().insert(identity);
        let response = block_on(layer.layer(service_fn(served)).oneshot(request));
        assert_eq!(response.unwrap().status(), StatusCode::OK);
    }
    assert!(begun.elapsed() >= Duration::from_millis(40));
}

#[test]
fn log_queue_stores_records() {
    let store = MemoryStore::new();
    let queue = LogQueue::builder(store.clone(), TokioRuntime)
        .build()
        .unwrap();
    let layer = AccessLogLayer::new(queue.clone());
    block_on(layer.layer(service_fn(served)).oneshot(get("/1"))).unwrap();
    assert!(block_on(queue.flush()));
    let stored = block_on(store.recent(LogStream::Access, &LogQuery::latest(2)));
    assert_eq!((stored.unwrap().len(), layer.stats().failed()), (1, 0));
}

#[test]
fn key_ring_flushes_its_counts() {
    let ring = KeyRing::builder("acmepay", MemoryStore::new())
        .pepper(Pepper::random(1))
        .count_uses()
        .flush_every(Duration::from_secs(1), TokioRuntime)
        .build()
        .unwrap();
    let manager = KeyManager::new(&ring);
    let key = block_on(manager.create(NewKey::new("freya"))).unwrap();
    let layer = ApiKeyLayer::builder(&ring).build().unwrap();
    let mut request = get("/");
    let value = key.expose_secret().parse().unwrap();
    request.headers_mut().insert("x-api-key", value);
    let response = block_on(layer.layer(service_fn(served)).oneshot(request)).unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let begun = Instant::now();
    let uses = || block_on(manager.list(KeyQuery::all())).unwrap().keys[0].uses;
    while uses() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "never flushed");
        std::thread::sleep(Duration::from_millis(5));
    }
}
