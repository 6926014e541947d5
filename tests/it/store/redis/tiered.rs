//! A small memory tier in front of the cache on Redis: fast, and purged as soon as a purge arrives.

use std::{
    future::poll_fn,
    pin::pin,
    task::Poll,
    time::{Duration, Instant},
};

use portcullis::{
    cache::{CacheLayer, CacheStore, Purge, PurgeMode},
    store::{
        RedisConfig, RedisStore, TieredStore,
        backend::{PurgeTarget, StoreKey},
    },
};

use crate::support::{
    instance::{Instance, commands, settle},
    redis::{Server, keys, patient},
};

const FIELDS: &[(&str, &str)] = &[("cache-control", "max-age=60"), ("cache-tag", "some")];

/// A service's process, with a cache in two tiers.
fn instance(server: &Server) -> Instance {
    let config = patient(RedisConfig::single(server.url()));
    let server = RedisStore::new(config, keys()).unwrap();
    let layer = CacheLayer::new(TieredStore::new(server, 1 << 20));
    Instance::new(layer, FIELDS)
}

async fn purge(instance: &Instance) {
    instance.purge(Purge::tag("some"), PurgeMode::Hard).await;
}

/// Sends requests until one is served without a command.
async fn warm(instance: &Instance, path: &str, server: &Server) -> String {
    let begun = Instant::now();
    loop {
        settle(server).await;
        let before = commands(server);
        let shown = instance.get(path).await;
        if commands(server) == before {
            return shown;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "never warm");
    }
}

/// Sends requests until the response is a different one, and returns the elapsed time.
async fn until_not(instance: &Instance, path: &str, shown: &str) -> Duration {
    let begun = Instant::now();
    while instance.get(path).await == shown {
        assert!(begun.elapsed() < Duration::from_secs(10), "shown for ever");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    begun.elapsed()
}

#[tokio::test]
async fn remote_purge_arrives_and_own_purge_is_immediate() {
    let server = Server::start();
    let (one, other) = (instance(&server), instance(&server));
    for _ in 0..10 {
        let shown = warm(&one, "/a", &server).await;
        assert_eq!(warm(&other, "/a", &server).await, shown);
        purge(&one).await;
        assert_ne!(one.get("/a").await, shown);
        let took = until_not(&other, "/a", &shown).await;
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
}

#[tokio::test]
async fn local_tier_is_unused_while_the_purge_channel_is_lost() {
    let server = Server::start();
    let (one, other) = (instance(&server), instance(&server));
    let shown = warm(&other, "/a", &server).await;
    server.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    purge(&one).await;
    let took = until_not(&other, "/a", &shown).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    // It reconnects after a while.
    warm(&other, "/a", &server).await;
}

#[tokio::test]
async fn a_late_look_up_never_brings_back_what_was_purged() {
    let server = Server::start();
    let (one, other) = (instance(&server), instance(&server));
    for round in 0..10 {
        let (path, mark) = (format!("/{round}"), format!("/mark/{round}"));
        let shown = warm(&one, &path, &server).await;
        let marked = warm(&other, &mark, &server).await;
        let before = server.calls_of("hmget");
        let mut late = pin!(other.get(&path));
        // The call is sent and has its reply, which is not read yet.
        poll_fn(|cx| {
            assert!(late.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        while server.calls_of("hmget") == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        purge(&one).await;
        until_not(&other, &mark, &marked).await;
        // It was right when it was asked for; from now on it is not.
        assert_eq!(late.await, shown);
        assert_ne!(other.get(&path).await, shown);
    }
}

#[tokio::test]
async fn purges_of_other_names_leave_the_memory_filled() {
    let server = Server::start();
    let other = instance(&server);
    let config = patient(RedisConfig::single(server.url()));
    let store = RedisStore::new(config, keys()).unwrap();
    let made_up: Vec<_> = (0..5_000_u128)
        .map(|number| PurgeTarget::Uri(StoreKey::from_bytes(number.to_le_bytes())))
        .collect();
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < Duration::from_secs(60), "never in time");
        let marked = warm(&other, "/mark", &server).await;
        let shown = warm(&other, "/a", &server).await;
        let copied = Instant::now();
        store.purge(&made_up, PurgeMode::Hard).await.unwrap();
        let mark = Purge::uri("http://acme.test/mark".parse().unwrap());
        other.purge(mark, PurgeMode::Hard).await;
        until_not(&other, "/mark", &marked).await;
        settle(&server).await;
        let before = commands(&server);
        assert_eq!(other.get("/a").await, shown);
        // A copy is used for two seconds.
        if copied.elapsed() < Duration::from_secs(1) {
            assert_eq!(commands(&server), before);
            break;
        }
    }
}
