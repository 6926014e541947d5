//! The origin's last response counts on Redis, in two tiers, and encrypted.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use portcullis::{
    cache::{CacheLayer, CacheLayerBuilder},
    store::{EncryptedStore, EncryptionKey, RedisConfig, RedisStore, TieredStore},
};

use crate::{
    cache::cache::{get_with, response_with},
    support::{
        get,
        hands::Hands,
        origin::{Origin, Site, all},
        redis::{Server, keys, patient},
        request,
    },
};

const STALE_IF_ERROR: &[(&str, &str)] = &[
    ("cache-control", "max-age=1, stale-if-error=600"),
    ("etag", "\"a\""),
];

fn redis(server: &Server) -> RedisStore {
    RedisStore::new(patient(RedisConfig::single(server.url())), keys()).unwrap()
}

/// A site over each kind of store.
fn sites(server: &Server, origin: &Origin) -> Vec<Site> {
    let key = EncryptionKey::new(1, b"the key of the tests has 32 bytes").unwrap();
    let encrypted = EncryptedStore::builder(redis(server), key).build().unwrap();
    let layers: [CacheLayerBuilder; 3] = [
        CacheLayer::secure(redis(server)).namespace("one"),
        CacheLayer::secure(TieredStore::new(redis(server), 1 << 20)).namespace("two"),
        CacheLayer::secure(encrypted).namespace("three"),
    ];
    let site = |builder: CacheLayerBuilder| {
        let hands = Hands::default();
        let builder = builder.clock(hands.clock.clone());
        Site::over(origin, hands, builder)
    };
    layers.map(site).into()
}

/// Sends a request until its response comes from the store.
async fn stored(site: &Site, request: impl Fn() -> Request<Full<Bytes>>) -> String {
    let begun = Instant::now();
    loop {
        let received = site.send(request()).await.unwrap();
        if received.is_hit() {
            return received.body;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "it is never stored"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn failing(origin: &Origin) {
    origin.responds(|_, _| {
        let mut response = response_with(&[], "failed");
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        Ok(response)
    });
}

#[tokio::test]
async fn a_final_response_invalidates_the_stored_one_in_every_store() {
    let server = Server::start();
    let origin = Origin::new(|_, _| Ok(response_with(STALE_IF_ERROR, "old")));
    origin.open();
    for site in sites(&server, &origin) {
        for status in [404, 302, 200] {
            let path = format!("/{status}");
            origin.responds(|_, _| Ok(response_with(STALE_IF_ERROR, "old")));
            assert_eq!(stored(&site, || get(&path)).await, "old");
            site.hands.clock.advance(Duration::from_secs(3));
            failing(&origin);
            assert_eq!(site.send(get(&path)).await.unwrap().body, "old");
            site.hands.clock.advance(Duration::from_secs(3));
            origin.responds(move |_, _| {
                let mut response = response_with(&[("cache-control", "no-store")], "final");
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
                Ok(response)
            });
            assert_eq!(site.send(get(&path)).await.unwrap().body, "final");
            failing(&origin);
            assert_eq!(site.send(get(&path)).await.unwrap().body, "failed");
        }
    }
}

#[tokio::test]
async fn a_304_for_another_version_refreshes_no_store() {
    let server = Server::start();
    let origin = Origin::new(|_, _| Ok(response_with(STALE_IF_ERROR, "old")));
    origin.open();
    for site in sites(&server, &origin) {
        origin.responds(|_, _| Ok(response_with(STALE_IF_ERROR, "old")));
        assert_eq!(stored(&site, || get("/a")).await, "old");
        site.hands.clock.advance(Duration::from_secs(3));
        origin.responds(|request, _| {
            if !request.headers().contains_key("if-none-match") {
                return Ok(response_with(&[("cache-control", "max-age=60")], "new"));
            }
            let mut response =
                response_with(&[("etag", "\"b\""), ("cache-control", "max-age=60")], "");
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            Ok(response)
        });
        assert_eq!(site.send(get("/a")).await.unwrap().body, "new");
        assert_eq!(stored(&site, || get("/a")).await, "new");
    }
}

#[tokio::test]
async fn concurrent_requests_of_every_kind_are_one_call_in_every_store() {
    let server = Server::start();
    let origin = Origin::new(|_, call| {
        let fields = [("cache-control", "max-age=60"), ("etag", "\"a\"")];
        Ok(response_with(&fields, format!("call {call}")))
    });
    for site in sites(&server, &origin) {
        let before = origin.calls();
        let kinds: [fn() -> Request<Full<Bytes>>; 4] = [
            || get("/a"),
            || get_with("/a", &[("if-none-match", "\"a\"")]),
            || get_with("/a", &[("range", "bytes=0-1")]),
            || request(Method::HEAD, "/a"),
        ];
        let burst = kinds.into_iter().cycle().take(40);
        let burst = burst.map(|request| site.start(request())).collect();
        while origin.calls() == before {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // All have asked the store by then.
        tokio::time::sleep(Duration::from_millis(100)).await;
        origin.let_through(1);
        let statuses: Vec<_> = all(burst)
            .await
            .into_iter()
            .map(|received| received.unwrap().status.as_u16())
            .collect();
        assert_eq!(statuses[..4], [200, 304, 206, 200]);
        assert_eq!(origin.calls(), before + 1);
    }
}
