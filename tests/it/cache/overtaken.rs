//! Responses that a newer one overtakes while their bodies arrive are neither streamed to further
//! requests nor stored.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use portcullis::{
    cache::{CacheLayer, CacheLayerBuilder, Purge, PurgeMode},
    store::MemoryStore,
};
use tokio::sync::Semaphore;
use tower::{Layer, ServiceExt, service_fn};

use super::{
    cache::{caller, get_as, get_with, response_with},
    streaming::HeldTouches,
};
use crate::support::{
    get,
    hands::{Hands, let_all_run},
    origin::{Origin, Site},
    text,
    trickle::{Streaming, Trickle, head},
};

type Fields = &'static [(&'static str, &'static str)];

const FRESH: Fields = &[("cache-control", "max-age=60")];
const SHORT: Fields = &[("cache-control", "max-age=1")];
const NOT_STORED: Fields = &[("cache-control", "no-store")];

const PROFILES: [fn(MemoryStore) -> CacheLayerBuilder; 2] = [
    |store| CacheLayer::secure(store),
    |store| CacheLayer::rfc(store),
];

/// A request that calls the handler although another one does.
fn precise(mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    let tag = HeaderValue::from_static("\"any\"");
    request.headers_mut().insert("if-match", tag);
    request
}

/// A site whose first response for `/a` streams to two clients, and is overtaken by the second one,
/// which is complete.
async fn overtaken(
    profile: fn(MemoryStore) -> CacheLayerBuilder,
    [old, new]: [Fields; 2],
    request: fn() -> Request<Full<Bytes>>,
) -> Streaming {
    let origin = Trickle::new(move |_, call| match call {
        1 => head(old),
        2 => head(new),
        _ => head(FRESH),
    });
    let site = Streaming::built(&origin, profile, |builder| {
        builder.max_wait(Duration::from_secs(60))
    });
    let clients = [site.client(request()).await, site.client(request()).await];
    origin.sends(1, "old").await;
    assert!(clients.iter().all(|client| client.body() == "old"));
    let newer = site.client(precise(request())).await;
    assert_eq!(origin.calls(), 2);
    origin.sends(2, "new").await;
    origin.ends(2).await;
    assert_eq!(newer.body(), "new");
    site
}

/// Asserts that a request waits, instead of streaming the old response, and then causes a call.
async fn assert_not_streamed(site: &Streaming, request: fn() -> Request<Full<Bytes>>, case: &str) {
    let calls = site.origin.calls();
    let late = site.client(request()).await;
    assert_eq!(late.body(), "", "{case}");
    site.origin.ends(1).await;
    assert_eq!(site.origin.calls(), calls + 1, "{case}");
    site.origin.sends(calls + 1, "newest").await;
    assert_eq!(late.body(), "newest", "{case}");
}

#[tokio::test]
async fn response_overtaken_by_an_unstorable_one_is_not_streamed_however_many_others_arrive() {
    for profile in PROFILES {
        let site = overtaken(profile, [FRESH, NOT_STORED], || get("/a")).await;
        for number in 0..6_000 {
            let other = site.client(get(&format!("/{number}"))).await;
            site.origin.ends(site.origin.calls()).await;
            assert!(other.has_head());
        }
        assert_not_streamed(&site, || get("/a"), "others").await;
    }
}

#[tokio::test]
async fn response_overtaken_by_a_stored_one_is_not_streamed_once_that_is_stale() {
    for profile in PROFILES {
        let site = overtaken(profile, [FRESH, SHORT], || get("/a")).await;
        site.hands.advance(Duration::from_secs(2)).await;
        assert_not_streamed(&site, || get("/a"), "stale").await;
    }
}

#[tokio::test]
async fn response_overtaken_by_one_that_varies_otherwise_is_not_stored() {
    const ACCEPT: Fields = &[("cache-control", "max-age=60"), ("vary", "accept")];
    const LANGUAGE: Fields = &[("cache-control", "max-age=60"), ("vary", "accept-language")];
    for profile in PROFILES {
        for fields in [[FRESH, ACCEPT], [ACCEPT, FRESH], [ACCEPT, LANGUAGE]] {
            let site = overtaken(profile, fields, || get("/a")).await;
            site.origin.ends(1).await;
            let late = site.client(get("/a")).await;
            assert_eq!(late.body(), "new", "{fields:?}");
        }
    }
}

#[tokio::test]
async fn response_overtaken_in_another_partition_is_neither_streamed_nor_stored() {
    const SHARED: Fields = &[("cache-control", "public, max-age=60")];
    const OWN: Fields = &[("cache-control", "private, max-age=60")];
    const OWN_SHORT: Fields = &[("cache-control", "private, max-age=1")];
    let request = || get_as("/a", &caller("one"));
    let rfc = PROFILES[1];

    let site = overtaken(rfc, [SHARED, OWN], request).await;
    site.origin.ends(1).await;
    assert_eq!(site.client(request()).await.body(), "new");

    let site = overtaken(rfc, [SHARED, OWN_SHORT], request).await;
    site.hands.advance(Duration::from_secs(2)).await;
    assert_not_streamed(&site, request, "another partition").await;
}

#[tokio::test]
async fn other_variants_and_urls_overtake_nothing() {
    const ACCEPT: Fields = &[("cache-control", "max-age=60"), ("vary", "accept")];
    let site = Streaming::secure(&Trickle::with(ACCEPT));
    let variant = |value| get_with("/a", &[("accept", value)]);
    let old = site.client(variant("one")).await;
    site.origin.sends(1, "one").await;
    for other in [precise(variant("two")), precise(get("/b"))] {
        let _other = site.client(other).await;
        site.origin.ends(site.origin.calls()).await;
    }
    site.origin.ends(1).await;
    assert_eq!(old.body(), "one");
    let hit = site.client(variant("one")).await;
    assert_eq!((site.origin.calls(), hit.body().as_str()), (3, "one"));
}

#[tokio::test]
async fn response_overtaken_by_a_confirmation_of_the_stored_one_is_not_stored() {
    for profile in PROFILES {
        let origin = Trickle::new(|_, call| {
            let mut head = head(match call {
                1 => &[("cache-control", "max-age=1"), ("etag", "\"1\"")],
                2 => &[("cache-control", "max-age=60"), ("etag", "\"2\"")],
                _ => &[("cache-control", "max-age=60"), ("etag", "\"1\"")],
            });
            if call == 3 {
                *head.status_mut() = StatusCode::NOT_MODIFIED;
            }
            head
        });
        let site = Streaming::built(&origin, profile, |builder| builder.max_waiters(1));
        let _first = site.client(get("/a")).await;
        origin.sends(1, "first").await;
        origin.ends(1).await;
        site.hands.advance(Duration::from_secs(2)).await;
        let streams = [site.client(get("/a")).await, site.client(get("/a")).await];
        origin.sends(2, "second").await;
        assert!(streams.iter().all(|client| client.body() == "second"));
        // One more cannot wait.
        let confirmed = site.client(get("/a")).await;
        assert_eq!((origin.calls(), confirmed.body().as_str()), (3, "first"));
        origin.ends(2).await;
        assert_eq!(site.client(get("/a")).await.body(), "first");
    }
}

#[tokio::test]
async fn response_that_was_purged_before_its_head_came_leaves_no_older_one() {
    for profile in PROFILES {
        let (origin, gate) = (Trickle::with(FRESH), Arc::new(Semaphore::new(0)));
        let hands = Hands::default();
        let builder = profile(MemoryStore::with_clock(hands.clock.clone()));
        let layer = builder.clock(hands.clock.clone()).runtime(hands).build();
        let layer = layer.unwrap();
        let (trickle, closed) = (origin.clone(), Arc::clone(&gate));
        let service = layer.layer(service_fn(move |request: Request<Full<Bytes>>| {
            let (trickle, closed) = (trickle.clone(), Arc::clone(&closed));
            async move {
                if !request.headers().contains_key("if-match") {
                    closed.acquire().await.unwrap().forget();
                }
                Ok::<_, Infallible>(trickle.respond(&request))
            }
        }));
        let client = |request| {
            let call = service.clone().oneshot(request);
            tokio::spawn(async { text(call.await.unwrap()).await })
        };
        let newer = client(get("/a"));
        let_all_run().await;
        let purge = [Purge::uri("/a".parse().unwrap())];
        let purged = layer.purger().purge(purge, PurgeMode::Hard);
        purged.await.unwrap();
        let older = client(precise(get("/a")));
        let_all_run().await;
        gate.add_permits(2);
        let_all_run().await;
        for (call, body) in [(1, "older"), (2, "newer")] {
            origin.sends(call, body).await;
            origin.ends(call).await;
        }
        assert_eq!(
            [older.await.unwrap(), newer.await.unwrap()],
            ["older", "newer"]
        );
        // The newer one is not stored, because of the purge.
        let last = client(get("/a"));
        let_all_run().await;
        assert_eq!(origin.calls(), 3);
        origin.ends(3).await;
        assert_eq!(last.await.unwrap(), "");
    }
}

/// A response of the origin with an entity tag.
fn tagged(status: u16, fields: Fields, tag: &'static str) -> Response<Full<Bytes>> {
    let body = if status == 304 { "" } else { tag };
    let mut response = response_with(fields, body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    let tag = HeaderValue::try_from(format!("\"{tag}\"")).unwrap();
    response.headers_mut().insert("etag", tag);
    response
}

#[tokio::test]
async fn final_response_waits_until_each_entry_that_it_invalidates_is_removed() {
    const OLD: Fields = &[("cache-control", "private, max-age=1, stale-if-error=600")];
    const SHARED: Fields = &[("cache-control", "public, max-age=60")];
    let request = || get_as("/a", &caller("one"));
    for (status, fields) in [(404, NOT_STORED), (200, NOT_STORED), (200, SHARED)] {
        // The entry in the caller's own partition, and the one that is stored meanwhile in the
        // shared partition.
        for held in ["own", "shared"] {
            let origin = Origin::new(move |_, call| {
                Ok(match call {
                    1 => tagged(200, OLD, "own"),
                    2 => tagged(status, fields, "final"),
                    _ => tagged(200, SHARED, "shared"),
                })
            });
            let hands = Hands::default();
            let store = HeldTouches::new(hands.clock.clone());
            let builder = CacheLayer::rfc(store.clone());
            let builder = builder.clock(hands.clock.clone()).runtime(hands.clone());
            let site = Site::over(&origin, hands, builder);
            origin.let_through(1);
            assert_eq!(site.send(request()).await.unwrap().body, "own");
            site.advance_secs(10).await;
            let asking = site.start(request());
            let_all_run().await;
            let other = site.start(precise(get("/a")));
            let_all_run().await;
            origin.let_through_call(3);
            assert_eq!(other.await.unwrap().unwrap().body, "shared");

            store.hold_of(held);
            let waiting = site.start(request());
            let_all_run().await;
            origin.let_through_call(2);
            let_all_run().await;
            // A response that replaces the shared entry is stored before it is sent.
            let is_replaced = held == "shared" && fields == SHARED;
            let case = format!("{status} {fields:?} {held}");
            assert_eq!(asking.is_finished(), is_replaced, "{case}");
            store.release().await;
            assert_eq!(asking.await.unwrap().unwrap().body, "final", "{case}");
            origin.open();
            waiting.await.unwrap().unwrap();
        }
    }
}
