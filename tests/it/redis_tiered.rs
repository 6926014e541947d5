//! A little memory before the cache on Redis: fast, and true as soon as a purge is heard.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use portcullis::{
    cache::{CacheLayer, Purge, PurgeMode},
    store::{RedisConfig, RedisStore, TieredStore},
};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{
    get,
    redis::{Server, keys, patient},
    text,
};

/// How many answers were made in all.
static MADE: AtomicUsize = AtomicUsize::new(0);

/// A service's process: a cache in two tiers, and a handler that counts.
struct Instance {
    layer: CacheLayer,
    calls: Arc<AtomicUsize>,
}

impl Instance {
    fn at(server: &Server) -> Self {
        let config = patient(RedisConfig::single(server.url()));
        let server = RedisStore::new(config, keys()).unwrap();
        Self {
            layer: CacheLayer::new(TieredStore::new(server, 1 << 20)),
            calls: Arc::default(),
        }
    }

    async fn get(&self, path: &str) -> String {
        let calls = Arc::clone(&self.calls);
        let handler = service_fn(move |_: Request<Full<Bytes>>| {
            calls.fetch_add(1, Ordering::SeqCst);
            // No two answers are the same, whichever instance makes them.
            let call = MADE.fetch_add(1, Ordering::SeqCst);
            let response = Response::builder()
                .header("cache-control", "max-age=60")
                .header("cache-tag", "some")
                .body(Full::<Bytes>::from(format!("made {call}")));
            async move { Ok::<_, Infallible>(response.unwrap()) }
        });
        let request = get(&format!("http://acme.test{path}"));
        text(self.layer.layer(handler).oneshot(request).await.unwrap()).await
    }

    async fn purge(&self) {
        let purger = self.layer.purger();
        let purged = purger.purge([Purge::tag("some")], PurgeMode::Hard);
        purged.await.unwrap();
    }

    /// Asks until an answer is shown without a command.
    async fn warm(&self, path: &str, server: &Server) -> String {
        let begun = Instant::now();
        loop {
            settle(server).await;
            let before = commands(server);
            let shown = self.get(path).await;
            if commands(server) == before {
                return shown;
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "never warm");
        }
    }

    /// Asks until something else is shown.
    async fn until_not(&self, path: &str, shown: &str) -> Duration {
        let begun = Instant::now();
        while self.get(path).await == shown {
            assert!(begun.elapsed() < Duration::from_secs(10), "shown for ever");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        begun.elapsed()
    }
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
async fn a_purge_elsewhere_is_heard_and_an_own_one_is_at_once() {
    let server = Server::start();
    let (one, other) = (Instance::at(&server), Instance::at(&server));
    for _ in 0..10 {
        let shown = one.warm("/a", &server).await;
        assert_eq!(other.warm("/a", &server).await, shown);
        one.purge().await;
        assert_ne!(one.get("/a").await, shown);
        let took = other.until_not("/a", &shown).await;
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
}

#[tokio::test]
async fn nothing_is_kept_in_memory_while_purges_are_not_heard() {
    let server = Server::start();
    let (one, other) = (Instance::at(&server), Instance::at(&server));
    let shown = other.warm("/a", &server).await;
    server.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    one.purge().await;
    let took = other.until_not("/a", &shown).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    // It hears again by and by.
    other.warm("/a", &server).await;
}

#[tokio::test]
async fn a_late_look_up_never_brings_back_what_was_purged() {
    let server = Server::start();
    let (one, other) = (Instance::at(&server), Instance::at(&server));
    for round in 0..10 {
        let (path, mark) = (format!("/{round}"), format!("/mark/{round}"));
        let shown = one.warm(&path, &server).await;
        let marked = other.warm(&mark, &server).await;
        let before = server.calls_of("hmget");
        let mut late = pin!(other.get(&path));
        // It is asked, and answered, and the answer is not looked at.
        poll_fn(|cx| {
            assert!(late.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        while server.calls_of("hmget") == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        one.purge().await;
        other.until_not(&mark, &marked).await;
        // It was right when it was asked for; from now on it is not.
        assert_eq!(late.await, shown);
        assert_ne!(other.get(&path).await, shown);
    }
}
