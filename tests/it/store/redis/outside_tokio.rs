//! The Redis store outside of a Tokio runtime, and in one without its drivers.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use http::StatusCode;
use portcullis::{
    StoreErrorKind,
    access_log::{LogQuery, LogStore, LogStream, record::LogEntry},
    cache::{CacheLayer, Purge, PurgeMode},
    rate_limit::{Policy, Quota, RateLimitStore, SyncMode},
    store::{RedisConfig, RedisStore, TieredStore, backend::Charge},
};

use super::keys::{Instance as KeyInstance, new_key};
use crate::support::{
    instance::Instance,
    parked::block_on,
    redis::{Fault, Proxy, Server, keys, patient},
};

fn store(url: &str) -> RedisStore {
    RedisStore::new(patient(RedisConfig::single(url)), keys()).unwrap()
}

async fn admitted(store: &RedisStore, policy: &Policy, calls: usize) -> usize {
    let partition = keys().space("outside").short_key(b"one");
    let mut admitted = 0;
    for _ in 0..calls {
        let taken = store.take(&partition, &[Charge::new(policy, 1)]).await;
        admitted += usize::from(taken.unwrap().is_admitted());
    }
    admitted
}

/// Uses all four parts of the store.
async fn serves(server: &Server) {
    let url = server.url();
    let (one, other) = (store(&url), store(&url));
    let policy = Policy::fixed_window("p", Quota::per_hour(100)).unwrap();
    assert_eq!(admitted(&one, &policy, 60).await, 60);
    assert_eq!(admitted(&other, &policy, 60).await, 40);
    let leased = Policy::fixed_window("q", Quota::per_hour(100)).unwrap();
    let leased = leased.with_sync_mode(SyncMode::auto(100, std::num::NonZeroU32::MIN));
    assert_eq!(admitted(&one, &leased, 10).await, 10);

    let entry = LogEntry::new(portcullis::Timestamp::from_secs(1), b"{}".to_vec());
    one.append(LogStream::Access, &[entry]).await.unwrap();
    let read = other.recent(LogStream::Access, &LogQuery::latest(2)).await;
    assert_eq!(read.unwrap().len(), 1);

    let (manager, instance) = (KeyInstance::at(&url), KeyInstance::over(other.clone()));
    let (id, key) = new_key(&manager, "freya").await;
    instance.warm(&key, server).await;
    manager.manager().revoke(id, "a test").await.unwrap();
    // The event arrives on the crate's own thread: no await is needed here.
    let begun = Instant::now();
    while instance.status(&key).await != StatusCode::UNAUTHORIZED {
        assert!(begun.elapsed() < Duration::from_secs(20), "never notified");
    }

    let cache = Instance::new(
        CacheLayer::new(TieredStore::new(one.clone(), 1 << 20)),
        &[("cache-control", "max-age=60"), ("cache-tag", "some")],
    );
    let stored = cache.get("/a").await;
    cache.purge(Purge::tag("some"), PurgeMode::Hard).await;
    assert_ne!(cache.get("/a").await, stored);
    one.reauthenticate().await.unwrap_err();
    one.close().await;
    other.close().await;
}

#[test]
fn store_serves_without_a_runtime() {
    block_on(serves(&Server::start()));
}

#[test]
fn store_serves_in_runtimes_without_drivers() {
    use tokio::runtime::Builder;
    let setups: [fn(&mut Builder) -> &mut Builder; 3] = [
        |without_any| without_any,
        |without_io| without_io.enable_time(),
        |without_time| without_time.enable_io(),
    ];
    for setup in setups {
        let runtime = setup(&mut Builder::new_current_thread()).build().unwrap();
        runtime.block_on(serves(&Server::start()));
    }
}

#[test]
fn store_of_a_runtime_that_ended_serves_without_one() {
    let server = Server::start();
    let store = store(&server.url());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(store.ping()).unwrap();
    drop(runtime);
    block_on(until_up(&store));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(until_up(&store));
}

async fn until_up(store: &RedisStore) {
    let begun = Instant::now();
    while let Err(error) = store.ping().await {
        assert!(begun.elapsed() < Duration::from_secs(10), "{error:?}");
    }
}

fn on_a_thread<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    std::thread::spawn(|| block_on(future)).join().unwrap()
}

#[test]
fn calls_keep_their_deadline_and_the_store_heals() {
    let server = Server::start();
    let proxy = Proxy::new(server.addr());
    let config = RedisConfig::single(proxy.url()).api_key_timeout(Duration::from_millis(500));
    let store = RedisStore::new(config, keys()).unwrap();
    block_on(until_up(&store));
    proxy.set(Fault::BlackHole);
    let begun = Instant::now();
    let pinged = store.clone();
    let error = on_a_thread(async move { pinged.ping().await.unwrap_err() });
    assert_eq!(error.kind(), StoreErrorKind::Timeout);
    assert!(begun.elapsed() < Duration::from_secs(5));
    proxy.set(Fault::None);
    block_on(until_up(&store));
}
