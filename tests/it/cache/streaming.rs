//! Requests that stream the response of another one while it is being stored.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1 as client, server::conn::http1 as server};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use portcullis::{
    ManualClock, StoreFuture,
    access_log::{AccessLogLayer, sinks::RecentRecords},
    cache::{CacheLayer, CacheStore, Purge, PurgeMode, body::InterruptedError},
    store::{
        MemoryStore, StoreKeys,
        backend::{
            CacheKey, Fence, Lookup, PurgeTarget, Put, PutOutcome, Selection, StoredResponse, Touch,
        },
    },
};
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};
use tower::{Layer, ServiceExt, service_fn};

use super::cache::{caller, get_as, get_with};
use crate::support::{
    get,
    hands::{Hands, let_all_run},
    request,
    trickle::{Client, End, Streaming, Trickle, assert_all, head},
};

type Fields = &'static [(&'static str, &'static str)];

const FRESH: &[(&str, &str)] = &[("cache-control", "max-age=60")];
const COMPLETE: Option<End> = Some(End::Complete);
const INTERRUPTED: Option<End> = Some(End::Interrupted);
const COLLAPSED: &str = "portcullis; fwd=uri-miss; collapsed; ttl=60";

const TEXT_10: &[(&str, &str)] = &[("cache-control", "max-age=60"), ("content-length", "10")];

#[tokio::test]
async fn waiters_stream_the_body_as_it_arrives() {
    for fields in [FRESH, TEXT_10] {
        for site in [
            Streaming::secure(&Trickle::with(fields)),
            Streaming::rfc(&Trickle::with(fields)),
        ] {
            let leader = site.client(get("/a")).await;
            let early = site.client(get("/a")).await;
            assert!(early.has_head(), "the head waits for the body");
            assert_all(&[&leader, &early], "", &None);
            site.origin.sends(1, "one, ").await;
            assert_all(&[&leader, &early], "one, ", &None);

            let late = site.client(get("/a")).await;
            assert_all(&[&leader, &early, &late], "one, ", &None);
            site.origin.sends(1, "other").await;
            assert_all(&[&leader, &early, &late], "one, other", &None);
            site.origin.ends(1).await;
            assert_all(&[&leader, &early, &late], "one, other", &COMPLETE);

            let hit = site.client(get("/a")).await;
            assert_all(&[&hit], "one, other", &COMPLETE);
            assert_eq!(hit.field("cache-status"), "portcullis; hit; ttl=60");
            assert_eq!(site.origin.calls(), 1);
        }
    }
}

#[tokio::test]
async fn streamed_response_states_its_age_and_that_it_was_collapsed() {
    let site = Streaming::secure(&Trickle::with(TEXT_10));
    let leader = site.client(get("/a")).await;
    site.hands.advance(Duration::from_secs(2)).await;
    let waiter = site.client(get("/a")).await;
    let status = "portcullis; fwd=uri-miss; stored; ttl=60";
    assert_eq!(leader.field("cache-status"), status);
    let status = "portcullis; fwd=uri-miss; collapsed; ttl=58";
    assert_eq!(waiter.field("cache-status"), status);
    assert_eq!(waiter.field("age"), "2");
    assert_eq!(waiter.field("content-length"), "10");
}

#[tokio::test]
async fn streams_share_the_bytes_of_the_fill() {
    let site = Streaming::secure(&Trickle::with(FRESH));
    let leader = site.client(get("/a")).await;
    let waiter = site.client(get("/a")).await;
    let sent = Bytes::from(vec![b'x'; 1_000]);
    site.origin.sends(1, sent.clone()).await;
    for client in [leader, waiter] {
        let data = client.data();
        assert_eq!(data.len(), 1);
        assert_eq!(data[0].as_ptr(), sent.as_ptr());
    }
}

#[tokio::test]
async fn origin_error_interrupts_every_stream_and_stores_nothing() {
    let site = Streaming::secure(&Trickle::with(FRESH));
    let leader = site.client(get("/a")).await;
    let waiters = [site.client(get("/a")).await, site.client(get("/a")).await];
    site.origin.sends(1, "half").await;
    site.origin.sends_frame(1, Err("gone")).await;
    assert_eq!(leader.end(), Some(End::Failed("gone".into())));
    for waiter in &waiters {
        assert_all(&[waiter], "half", &INTERRUPTED);
    }
    let next = site.client(get("/a")).await;
    assert_eq!((site.origin.calls(), next.body().as_str()), (2, ""));
}

#[tokio::test]
async fn body_that_is_shorter_or_longer_than_announced_interrupts_every_stream() {
    for (sent, end) in [("short", INTERRUPTED), ("much longer", INTERRUPTED)] {
        let site = Streaming::secure(&Trickle::with(TEXT_10));
        let _leader = site.client(get("/a")).await;
        let waiter = site.client(get("/a")).await;
        site.origin.sends(1, sent).await;
        site.origin.ends(1).await;
        assert_eq!(waiter.end(), end, "{sent}");
        let _next = site.client(get("/a")).await;
        assert_eq!(site.origin.calls(), 2, "{sent}");
    }
}

#[tokio::test]
async fn waiters_receive_the_whole_body_after_the_client_of_the_call_has_left() {
    for sent in ["", "one, "] {
        let site = Streaming::secure(&Trickle::with(FRESH));
        let leader = site.client(get("/a")).await;
        let waiter = site.client(get("/a")).await;
        site.origin.sends(1, sent).await;
        leader.leave().await;
        let late = site.client(get("/a")).await;
        site.origin.sends(1, "other").await;
        site.origin.ends(1).await;
        assert_all(&[&waiter, &late], &format!("{sent}other"), &COMPLETE);
        assert_eq!(site.origin.calls(), 1);
    }
}

#[tokio::test]
async fn requests_stream_a_body_whose_only_client_has_left() {
    // So little is left of it that it is read to its end.
    let site = Streaming::secure(&Trickle::with(TEXT_10));
    let leader = site.client(get("/a")).await;
    site.origin.sends(1, "one, ").await;
    leader.leave().await;
    let late = site.client(get("/a")).await;
    assert_all(&[&late], "one, ", &None);
    site.origin.sends(1, "other").await;
    site.origin.ends(1).await;
    assert_all(&[&late], "one, other", &COMPLETE);
    assert_eq!(site.origin.calls(), 1);
}

#[tokio::test]
async fn waiter_that_disconnects_does_not_affect_others() {
    let site = Streaming::secure(&Trickle::with(FRESH));
    let leader = site.client(get("/a")).await;
    let leaving = site.client(get("/a")).await;
    let waiter = site.client(get("/a")).await;
    site.origin.sends(1, "one, ").await;
    leaving.leave().await;
    site.origin.sends(1, "other").await;
    site.origin.ends(1).await;
    assert_all(&[&leader, &waiter], "one, other", &COMPLETE);
}

#[tokio::test]
async fn body_without_readers_is_dropped() {
    let site = Streaming::secure(&Trickle::with(FRESH));
    let leader = site.client(get("/a")).await;
    let waiter = site.client(get("/a")).await;
    site.origin.sends(1, "one, ").await;
    leader.leave().await;
    for _ in 0..5 {
        site.hands.advance(Duration::from_secs(6)).await;
        assert!(!site.origin.is_dropped(1), "it has a reader");
    }
    waiter.leave().await;
    site.hands.advance(Duration::from_secs(6)).await;
    assert!(site.origin.is_dropped(1));
}

#[tokio::test]
async fn waiters_stream_for_longer_than_requests_wait() {
    let site = Streaming::secure(&Trickle::with(&[("cache-control", "max-age=600")]));
    let _leader = site.idle(get("/a")).await;
    let waiter = site.client(get("/a")).await;
    let mut body = String::new();
    for _ in 0..10 {
        site.hands.advance(Duration::from_secs(4)).await;
        site.origin.sends(1, "tick ").await;
        body.push_str("tick ");
        assert_all(&[&waiter], &body, &None);
    }
    let late = site.client(get("/a")).await;
    site.origin.ends(1).await;
    assert_all(&[&waiter, &late], &body, &COMPLETE);
    assert_eq!(site.origin.calls(), 1);
}

#[tokio::test]
async fn later_requests_do_not_join_a_body_that_hangs() {
    let site = Streaming::secure(&Trickle::with(&[("cache-control", "max-age=600")]));
    let leader = site.client(get("/a")).await;
    let waiter = site.client(get("/a")).await;
    site.origin.sends(1, "half").await;
    site.hands.advance(Duration::from_secs(6)).await;
    site.hands.advance(Duration::from_secs(6)).await;
    let late = site.client(get("/a")).await;
    assert_eq!(site.origin.calls(), 2);
    site.origin.sends(2, "all").await;
    site.origin.ends(2).await;
    assert_all(&[&late], "all", &COMPLETE);
    // Those that stream it already go on with it.
    site.origin.sends(1, ", all").await;
    site.origin.ends(1).await;
    assert_all(&[&leader, &waiter], "half, all", &COMPLETE);
    let hit = site.client(get("/a")).await;
    assert_all(&[&hit], "all", &COMPLETE);
}

#[tokio::test]
async fn client_that_does_not_read_delays_no_stream() {
    let site = Streaming::secure(&Trickle::with(FRESH));
    let leader = site.idle(get("/a")).await;
    let idle = site.idle(get("/a")).await;
    let waiter = site.client(get("/a")).await;
    for piece in ["one, ", "two, ", "three"] {
        site.origin.sends(1, piece).await;
    }
    assert_all(&[&waiter], "one, two, three", &None);
    site.origin.ends(1).await;
    assert_all(&[&waiter], "one, two, three", &COMPLETE);
    for late in [leader, idle] {
        let body = late.await.unwrap().into_body();
        assert_eq!(body.collect().await.unwrap().to_bytes(), "one, two, three");
    }
}

const KIB: usize = 1 << 10;

fn piece(number: usize) -> Bytes {
    Bytes::from(vec![b'a' + number as u8; KIB])
}

fn pieces(count: usize) -> Vec<u8> {
    (0..count).flat_map(piece).collect()
}

/// A cache that stores bodies of up to 8 KiB.
fn small(origin: &Trickle) -> Streaming {
    Streaming::built(origin, CacheLayer::secure, |builder| {
        builder.max_body_bytes(8 << 10)
    })
}

#[tokio::test]
async fn oversized_body_reaches_every_stream_whole_and_is_not_stored() {
    let site = small(&Trickle::with(FRESH));
    let leader = site.client(get("/a")).await;
    let waiter = site.client(get("/a")).await;
    for number in 0..20 {
        site.origin.sends(1, piece(number)).await;
    }
    // Nothing that a later request could be answered with is left.
    let late = site.client(get("/a")).await;
    assert_eq!(site.origin.calls(), 2);
    site.origin.ends(1).await;
    for client in [leader, waiter] {
        assert_eq!(client.end(), COMPLETE);
        assert_eq!(client.data().concat(), pieces(20));
    }
    assert_eq!(late.body(), "");
}

/// Reads a body to its end.
async fn rest<B: Body<Data = Bytes>>(body: B) -> Result<Bytes, B::Error> {
    body.collect().await.map(|body| body.to_bytes())
}

#[tokio::test]
async fn slow_stream_of_an_oversized_body_is_interrupted_after_it_has_stalled_the_others() {
    let site = small(&Trickle::with(FRESH));
    let leader = site.client(get("/a")).await;
    let waiter = site.client(get("/a")).await;
    let idle = site.idle(get("/a")).await;
    for number in 0..20 {
        site.origin.sends(1, piece(number)).await;
    }
    // The body waits: 8 KiB are retained for the slow stream.
    assert_eq!(waiter.data().len(), 9);
    site.hands.advance(Duration::from_secs(6)).await;
    site.origin.ends(1).await;
    for client in [leader, waiter] {
        assert_eq!(client.end(), COMPLETE);
        assert_eq!(client.data().concat(), pieces(20));
    }
    let error = rest(idle.await.unwrap().into_body()).await.unwrap_err();
    assert!(error.is::<InterruptedError>());
}

#[tokio::test]
async fn slow_stream_of_an_oversized_body_that_goes_on_reading_receives_all() {
    let site = small(&Trickle::with(FRESH));
    let _leader = site.client(get("/a")).await;
    let slow = site.idle(get("/a")).await;
    for number in 0..20 {
        site.origin.sends(1, piece(number)).await;
    }
    site.origin.ends(1).await;
    let mut body = slow.await.unwrap().into_body();
    let mut data = Vec::new();
    while let Some(frame) = body.frame().await {
        data.push(frame.unwrap().into_data().unwrap());
        site.hands.advance(Duration::from_secs(4)).await;
    }
    assert_eq!(data.concat(), pieces(20));
}

#[tokio::test]
async fn leader_that_stalls_an_oversized_body_interrupts_the_streams_and_loses_nothing() {
    let site = small(&Trickle::with(FRESH));
    let leader = site.idle(get("/a")).await;
    let waiter = site.client(get("/a")).await;
    for number in 0..20 {
        site.origin.sends(1, piece(number)).await;
    }
    assert_eq!((waiter.data().len(), waiter.end()), (9, None));
    site.hands.advance(Duration::from_secs(6)).await;
    assert_eq!(waiter.end(), INTERRUPTED);
    site.origin.ends(1).await;
    let body = rest(leader.await.unwrap().into_body()).await.unwrap();
    assert_eq!(body, pieces(20));
}

#[tokio::test]
async fn leader_that_leaves_while_it_stalls_an_oversized_body_sets_the_streams_free() {
    let site = small(&Trickle::with(FRESH));
    let leader = site.idle(get("/a")).await;
    let waiter = site.client(get("/a")).await;
    for number in 0..20 {
        site.origin.sends(1, piece(number)).await;
    }
    assert_eq!(waiter.data().len(), 9);
    drop(leader.await.unwrap());
    let_all_run().await;
    site.origin.ends(1).await;
    assert_eq!(waiter.end(), COMPLETE);
    assert_eq!(waiter.data().concat(), pieces(20));
}

#[tokio::test]
async fn stream_that_keeps_up_outlives_the_budget_of_fills_and_one_that_lags_is_interrupted() {
    let site = Streaming::built(&Trickle::with(FRESH), CacheLayer::secure, |builder| {
        builder.max_fill_bytes(16 << 10)
    });
    let _leader = site.client(get("/a")).await;
    let waiter = site.client(get("/a")).await;
    let idle = site.idle(get("/a")).await;
    for number in 0..12 {
        site.origin.sends(1, piece(number)).await;
    }
    // An older fill yields to another one.
    site.hands.advance(Duration::from_secs(61)).await;
    let _other = site.client(get("/b")).await;
    for number in 0..12 {
        site.origin.sends(2, piece(number)).await;
    }
    site.origin.sends(1, piece(12)).await;
    site.origin.ends(1).await;
    assert_eq!(waiter.data().concat(), pieces(13));
    assert_eq!(waiter.end(), COMPLETE);
    assert!(rest(idle.await.unwrap().into_body()).await.is_err());
}

#[tokio::test]
async fn trailers_reach_every_stream_of_a_response_that_is_not_stored_for_them() {
    let site = Streaming::secure(&Trickle::with(FRESH));
    let leader = site.client(get("/a")).await;
    let waiter = site.client(get("/a")).await;
    let idle = site.idle(get("/a")).await;
    site.origin.sends(1, "body").await;
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("7"));
    let frame = Frame::trailers(trailers);
    site.origin.sends_frame(1, Ok(frame)).await;
    site.origin.ends(1).await;
    for client in [leader, waiter] {
        assert_all(&[&client], "body", &COMPLETE);
        assert_eq!(client.trailer("x-sum").as_deref(), Some("7"));
    }
    let idle = idle.await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(idle.trailers().unwrap()["x-sum"], "7");
    assert_eq!(idle.to_bytes(), "body");
    let _next = site.client(get("/a")).await;
    assert_eq!(site.origin.calls(), 2);
}

const NAMED: &[(&str, &str)] = &[("cache-control", "max-age=60"), ("cache-tag", "one")];

fn uri() -> Purge {
    Purge::uri("http://acme.test/a".parse().unwrap())
}

fn acme() -> Request<Full<Bytes>> {
    get("http://acme.test/a")
}

/// Asserts that a request during a fill does not stream it after `purge`, and is served by another
/// call.
async fn assert_not_joined<F: Future<Output = ()>>(
    site: &Streaming,
    case: &str,
    purge: impl FnOnce() -> F,
) {
    let leader = site.client(acme()).await;
    let joined = site.client(acme()).await;
    site.origin.sends(1, "old, ").await;
    purge().await;
    let calls = site.origin.calls();
    let late = site.client(acme()).await;
    assert!(!late.has_head(), "{case}");
    site.origin.sends(1, "all").await;
    site.origin.ends(1).await;
    assert_all(&[&leader, &joined], "old, all", &COMPLETE);
    assert_eq!(site.origin.calls(), calls + 1, "{case}");
    site.origin.sends(calls + 1, "new").await;
    assert_eq!(late.body(), "new", "{case}");
}

#[tokio::test]
async fn purge_in_a_fill_lets_streams_finish_and_admits_no_further_one() {
    let caller = || Purge::Caller(caller("other"));
    for purge in [uri, || Purge::tag("one"), || Purge::All] {
        let site = Streaming::secure(&Trickle::with(NAMED));
        let purged = || async {
            let purged = site.purger.purge([purge()], PurgeMode::Hard);
            purged.await.unwrap();
        };
        assert_not_joined(&site, &format!("{:?}", purge()), purged).await;
    }
    // Other purges have no effect.
    for purge in [caller, || Purge::tag("two")] {
        let site = Streaming::secure(&Trickle::with(NAMED));
        let _leader = site.client(acme()).await;
        site.origin.sends(1, "some").await;
        let purged = site.purger.purge([purge()], PurgeMode::Hard);
        purged.await.unwrap();
        let late = site.client(acme()).await;
        assert_all(&[&late], "some", &None);
    }
}

#[tokio::test]
async fn unsafe_request_in_a_fill_admits_no_further_stream() {
    let site = Streaming::secure(&Trickle::with(NAMED));
    let changed = || async {
        let changing = site.client(request(Method::POST, "http://acme.test/a"));
        let changing = changing.await;
        site.origin.ends(2).await;
        assert_eq!(changing.end(), COMPLETE);
    };
    assert_not_joined(&site, "POST", changed).await;
}

#[tokio::test]
async fn purge_by_another_cache_on_the_store_admits_no_further_stream() {
    let origin = Trickle::with(NAMED);
    let hands = Hands::default();
    let store = MemoryStore::with_clock(hands.clock.clone());
    let other = CacheLayer::new(store.clone()).purger();
    let site = Streaming::over(&origin, hands, CacheLayer::secure(store));
    let purged = || async {
        other.purge([uri()], PurgeMode::Hard).await.unwrap();
    };
    assert_not_joined(&site, "another cache", purged).await;
}

#[tokio::test]
async fn soft_purge_in_a_fill_admits_no_further_stream() {
    let site = Streaming::secure(&Trickle::with(NAMED));
    let _leader = site.client(acme()).await;
    site.origin.sends(1, "old").await;
    let purged = site.purger.purge([uri()], PurgeMode::Soft);
    purged.await.unwrap();
    let late = site.client(acme()).await;
    assert!(!late.has_head());
}

const VARYING: &[(&str, &str)] = &[("cache-control", "max-age=60"), ("vary", "accept")];

#[tokio::test]
async fn request_for_another_variant_does_not_stream() {
    let site = Streaming::secure(&Trickle::with(VARYING));
    let accepting = |accept| get_with("/a", &[("accept", accept)]);
    let _leader = site.client(accepting("text/html")).await;
    let same = site.client(accepting("text/html")).await;
    let other = site.client(accepting("text/plain")).await;
    site.origin.sends(1, "html").await;
    assert_all(&[&same], "html", &None);
    assert!(!other.has_head());
    site.origin.ends(1).await;
    assert_eq!(site.origin.calls(), 2);
    site.origin.sends(2, "plain").await;
    assert_eq!((same.end(), other.body().as_str()), (COMPLETE, "plain"));
}

#[tokio::test]
async fn conditional_request_receives_304_at_the_head_or_streams_the_body() {
    let fields = &[("cache-control", "max-age=60"), ("etag", "\"1\"")];
    let site = Streaming::secure(&Trickle::with(fields));
    let leader = site.client(get("/a")).await;
    let asking = |etag| get_with("/a", &[("if-none-match", etag)]);
    let same = site.client(asking("\"1\"")).await;
    let other = site.client(asking("\"2\"")).await;
    assert_eq!((same.status(), same.end()), (304, COMPLETE));
    assert_eq!(other.status(), 200);
    site.origin.sends(1, "body").await;
    assert_all(&[&leader, &other], "body", &None);
    site.origin.ends(1).await;
    assert_all(&[&leader, &other], "body", &COMPLETE);
    assert_eq!(site.origin.calls(), 1);
}

#[tokio::test]
async fn conditional_leader_admits_streams() {
    let fields = &[("cache-control", "max-age=60"), ("etag", "\"1\"")];
    let site = Streaming::secure(&Trickle::with(fields));
    let conditional = get_with("/a", &[("if-none-match", "\"1\"")]);
    let leader = site.client(conditional).await;
    let waiter = site.client(get("/a")).await;
    site.origin.sends(1, "body").await;
    assert_all(&[&waiter], "body", &None);
    site.origin.ends(1).await;
    assert_eq!((leader.status(), waiter.end()), (304, COMPLETE));
    assert_eq!(site.origin.calls(), 1);
}

fn first_bytes() -> Request<Full<Bytes>> {
    get_with("/a", &[("range", "bytes=0-2")])
}

#[tokio::test]
async fn range_is_cut_from_the_complete_entry() {
    let site = Streaming::secure(&Trickle::with(FRESH));
    let _leader = site.client(get("/a")).await;
    let part = site.client(first_bytes()).await;
    site.origin.sends(1, "one, ").await;
    assert!(!part.has_head());
    site.origin.sends(1, "other").await;
    site.origin.ends(1).await;
    assert_eq!((part.status(), part.body().as_str()), (206, "one"));
    assert_eq!(site.origin.calls(), 1);
}

#[tokio::test]
async fn range_that_has_waited_in_vain_ends_no_stream() {
    let site = Streaming::secure(&Trickle::with(FRESH));
    let _leader = site.client(get("/a")).await;
    let waiter = site.client(get("/a")).await;
    let _part = site.client(first_bytes()).await;
    site.origin.sends(1, "bo").await;
    assert_eq!(site.origin.calls(), 1);
    site.hands.advance(Duration::from_secs(6)).await;
    assert_eq!(site.origin.calls(), 2, "it has waited for 5 s");
    // Further ones need not wait as long, and whole responses are streamed.
    let _part = site.client(first_bytes()).await;
    assert_eq!(site.origin.calls(), 3);
    let late = site.client(get("/a")).await;
    site.origin.sends(1, "dy").await;
    site.origin.ends(1).await;
    assert_all(&[&waiter, &late], "body", &COMPLETE);
    assert_eq!(site.origin.calls(), 3);
}

#[tokio::test]
async fn head_request_is_answered_at_the_head() {
    for (fields, length) in [(FRESH, ""), (TEXT_10, "10")] {
        let site = Streaming::secure(&Trickle::with(fields));
        let _leader = site.client(get("/a")).await;
        let waiter = site.client(request(Method::HEAD, "/a")).await;
        assert_eq!((waiter.status(), waiter.end()), (200, COMPLETE));
        assert_eq!(waiter.field("content-length"), length);
        assert_eq!(waiter.field("cache-status"), COLLAPSED);
        assert_eq!(site.origin.calls(), 1);
    }
}

#[tokio::test]
async fn response_that_is_validated_at_each_use_is_not_streamed() {
    let fields = &[("cache-control", "no-cache"), ("etag", "\"1\"")];
    let site = Streaming::rfc(&Trickle::with(fields));
    let _leader = site.client(get("/a")).await;
    let waiter = site.client(get("/a")).await;
    site.origin.sends(1, "body").await;
    assert!(!waiter.has_head());
}

#[tokio::test]
async fn request_directives_decide_on_a_stream_as_on_a_stored_response() {
    for (directive, streams) in [
        ("max-age=60", true),
        ("max-stale", true),
        ("max-age=1", false),
        ("min-fresh=59", false),
        ("no-cache", false),
        ("no-store", false),
    ] {
        let site = Streaming::rfc(&Trickle::with(FRESH));
        let _leader = site.client(get("/a")).await;
        site.origin.sends(1, "body").await;
        site.hands.advance(Duration::from_secs(2)).await;
        let asking = get_with("/a", &[("cache-control", directive)]);
        let waiter = site.client(asking).await;
        let is_streaming = waiter.body() == "body";
        assert_eq!(is_streaming, streams, "{directive}");
    }
}

#[tokio::test]
async fn callers_stream_no_response_of_another_one() {
    let public = &[("cache-control", "public, max-age=60")];
    let (one, two) = (caller("one"), caller("two"));
    for (fields, shares) in [(FRESH, false), (public, true)] {
        let site = Streaming::rfc(&Trickle::with(fields));
        let _leader = site.client(get_as("/a", &one)).await;
        let own = site.client(get_as("/a", &one)).await;
        let other = site.client(get_as("/a", &two)).await;
        let anonymous = site.client(get("/a")).await;
        site.origin.sends(1, "body").await;
        assert_eq!(own.body(), "body");
        for stranger in [other, anonymous] {
            assert_eq!(stranger.body() == "body", shares, "{fields:?}");
        }
    }
}

#[tokio::test]
async fn known_caller_does_not_stream_what_was_made_for_the_anonymous() {
    let site = Streaming::rfc(&Trickle::with(FRESH));
    let _leader = site.client(get("/a")).await;
    let known = site.client(get_as("/a", &caller("one"))).await;
    site.origin.sends(1, "body").await;
    assert_eq!(known.body(), "");
}

/// Makes a site whose entry for `/a` has become stale.
async fn stale(directives: &'static str) -> Streaming {
    let origin = Trickle::new(move |_, call| {
        let fields: &[_] = match call {
            1 => &[("cache-control", directives), ("etag", "\"1\"")],
            _ => &[("cache-control", "max-age=60"), ("etag", "\"2\"")],
        };
        head(fields)
    });
    let site = Streaming::secure(&origin);
    let first = site.client(get("/a")).await;
    origin.sends(1, "old").await;
    origin.ends(1).await;
    assert_all(&[&first], "old", &COMPLETE);
    site.hands.advance(Duration::from_secs(10)).await;
    site
}

#[tokio::test]
async fn revalidation_that_returns_a_new_response_is_streamed() {
    let site = stale("max-age=1").await;
    let leader = site.client(get("/a")).await;
    let waiter = site.client(get("/a")).await;
    site.origin.sends(2, "new, ").await;
    assert_all(&[&leader, &waiter], "new, ", &None);
    site.origin.sends(2, "all").await;
    site.origin.ends(2).await;
    assert_all(&[&leader, &waiter], "new, all", &COMPLETE);
    assert_eq!(site.origin.calls(), 2);
}

#[tokio::test]
async fn refresh_in_the_background_is_streamed_to_requests_that_take_no_stale_response() {
    let site = stale("max-age=1, stale-while-revalidate=20").await;
    let first = site.client(get("/a")).await;
    assert_all(&[&first], "old", &COMPLETE);
    site.origin.sends(2, "new, ").await;
    // From here on the stale response is too old.
    site.hands.advance(Duration::from_secs(15)).await;
    let waiter = site.client(get("/a")).await;
    assert_all(&[&waiter], "new, ", &None);
    site.origin.sends(2, "all").await;
    site.origin.ends(2).await;
    assert_all(&[&waiter], "new, all", &COMPLETE);
    assert_eq!(site.origin.calls(), 2);
}

#[tokio::test]
async fn requests_beyond_the_maximum_call_the_handler() {
    let site = Streaming::built(&Trickle::with(FRESH), CacheLayer::secure, |builder| {
        builder.max_waiters(2)
    });
    let mut clients = Vec::<Client>::new();
    for _ in 0..4 {
        clients.push(site.client(get("/a")).await);
    }
    assert_eq!(site.origin.calls(), 2);
    site.origin.sends(1, "body").await;
    site.origin.ends(1).await;
    assert_all(
        &clients.iter().take(3).collect::<Vec<_>>(),
        "body",
        &COMPLETE,
    );
    let_all_run().await;
}

#[tokio::test]
async fn stale_response_is_not_served_after_a_streamed_refresh_began() {
    let origin = Trickle::new(|_, call| {
        let stale = "max-age=1, stale-while-revalidate=20, stale-if-error=600";
        let mut head = head(match call {
            1 => &[("cache-control", "max-age=1"), ("etag", "\"1\"")],
            _ => FRESH,
        });
        match call {
            1 => drop(
                head.headers_mut()
                    .insert("cache-control", HeaderValue::from_static(stale)),
            ),
            2 => {}
            _ => *head.status_mut() = http::StatusCode::BAD_GATEWAY,
        }
        head
    });
    let site = Streaming::built(&origin, CacheLayer::secure, |builder| {
        builder.max_waiters(1)
    });
    let _first = site.client(get("/a")).await;
    origin.sends(1, "old").await;
    origin.ends(1).await;
    site.hands.advance(Duration::from_secs(10)).await;
    // The stale response is refreshed in the background.
    let second = site.client(get("/a")).await;
    assert_all(&[&second], "old", &COMPLETE);
    origin.sends(2, "new").await;
    site.hands.advance(Duration::from_secs(15)).await;
    let waiter = site.client(get("/a")).await;
    assert_all(&[&waiter], "new", &None);
    // One more cannot wait, and calls an origin that fails.
    let other = site.client(get("/a")).await;
    assert_eq!((origin.calls(), other.status()), (3, 502));
}

/// A store in memory whose touches, once held, stay pending until they are released.
#[derive(Clone, Debug)]
pub(super) struct HeldTouches {
    memory: MemoryStore,
    held: watch::Sender<Held>,
}

/// The touches that stay pending.
#[derive(Clone, Copy, Debug)]
enum Held {
    None,
    All,
    /// Those of entries with this body.
    Of(&'static str),
}

impl Held {
    fn holds(self, touch: &Touch) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Of(body) => touch.entry.body() == body,
        }
    }
}

impl HeldTouches {
    pub(super) fn new(clock: ManualClock) -> Self {
        Self {
            memory: MemoryStore::with_clock(clock),
            held: watch::Sender::new(Held::None),
        }
    }

    fn hold(&self) {
        self.held.send_replace(Held::All);
    }

    pub(super) fn hold_of(&self, body: &'static str) {
        self.held.send_replace(Held::Of(body));
    }

    pub(super) async fn release(&self) {
        self.held.send_replace(Held::None);
        let_all_run().await;
    }
}

impl CacheStore for HeldTouches {
    fn keys(&self) -> &StoreKeys {
        CacheStore::keys(&self.memory)
    }

    fn get(&self, key: &CacheKey, selection: &Selection<'_>) -> StoreFuture<Lookup> {
        self.memory.get(key, selection)
    }

    fn put(&self, put: Put) -> StoreFuture<PutOutcome> {
        self.memory.put(put)
    }

    fn touch(&self, touch: Touch) -> StoreFuture<bool> {
        let (memory, mut held) = (self.memory.clone(), self.held.subscribe());
        StoreFuture::pending(async move {
            let _ = held.wait_for(|held| !held.holds(&touch)).await;
            CacheStore::touch(&memory, touch).await
        })
    }

    fn purge(&self, targets: &[PurgeTarget], mode: PurgeMode) -> StoreFuture<()> {
        CacheStore::purge(&self.memory, targets, mode)
    }

    fn is_purged_since(
        &self,
        key: &CacheKey,
        entry: &StoredResponse,
        fence: Fence,
    ) -> StoreFuture<bool> {
        self.memory.is_purged_since(key, entry, fence)
    }
}

/// A stale entry, and a request whose response invalidates it from another variant or partition.
struct Invalidation {
    site: Streaming,
    store: HeldTouches,
    request: fn() -> Request<Full<Bytes>>,
}

impl Invalidation {
    async fn from_another_variant() -> Self {
        const OLD: Fields = &[("cache-control", "max-age=1"), ("vary", "accept")];
        const NEW: Fields = &[("cache-control", "max-age=60"), ("vary", "accept-language")];
        Self::new(OLD, NEW, || get("/a")).await
    }

    async fn from_another_partition() -> Self {
        const OLD: Fields = &[("cache-control", "public, max-age=1")];
        const NEW: Fields = &[("cache-control", "private, max-age=60")];
        Self::new(OLD, NEW, || get_as("/a", &caller("one"))).await
    }

    async fn new(old: Fields, new: Fields, request: fn() -> Request<Full<Bytes>>) -> Self {
        let origin = Trickle::new(move |_, call| match call {
            1 => head(&[old, &[("etag", "\"1\"")]].concat()),
            _ => head(&[new, &[("etag", "\"2\"")]].concat()),
        });
        let hands = Hands::default();
        let store = HeldTouches::new(hands.clock.clone());
        let site = Streaming::over(&origin, hands, CacheLayer::rfc(store.clone()));
        let first = site.client(request()).await;
        origin.sends(1, "old").await;
        origin.ends(1).await;
        assert_all(&[&first], "old", &COMPLETE);
        site.hands.advance(Duration::from_secs(10)).await;
        store.hold();
        Self {
            site,
            store,
            request,
        }
    }

    async fn client(&self) -> Client {
        self.site.client((self.request)()).await
    }
}

#[tokio::test]
async fn head_is_not_streamed_before_the_entry_that_it_invalidates_is_removed() {
    for case in [
        Invalidation::from_another_variant().await,
        Invalidation::from_another_partition().await,
    ] {
        let clients = [case.client().await, case.client().await];
        case.site.origin.sends(2, "new, ").await;
        let late = case.client().await;
        let clients = [&clients[0], &clients[1], &late];
        assert!(!clients.iter().any(|client| client.has_head()));

        case.store.release().await;
        assert_all(&clients, "new, ", &None);
        case.site.origin.sends(2, "all").await;
        case.site.origin.ends(2).await;
        assert_all(&clients, "new, all", &COMPLETE);
        assert_eq!(case.site.origin.calls(), 2);
    }
}

#[tokio::test]
async fn response_is_not_stored_before_the_entry_that_it_invalidates_is_removed() {
    for case in [
        Invalidation::from_another_variant().await,
        Invalidation::from_another_partition().await,
    ] {
        let leader = case.client().await;
        case.site.origin.sends(2, "new").await;
        case.site.origin.ends(2).await;
        let late = case.client().await;
        assert!(!leader.has_head() && !late.has_head());

        case.store.release().await;
        assert_all(&[&leader, &late], "new", &COMPLETE);
        let hit = case.client().await;
        assert_eq!(hit.field("cache-status"), "portcullis; hit; ttl=60");
        assert_eq!(case.site.origin.calls(), 2);
    }
}

#[cfg(feature = "compression")]
#[tokio::test]
async fn response_that_is_stored_compressed_is_streamed_as_it_arrives() {
    let fields = &[
        ("cache-control", "max-age=60"),
        ("content-type", "text/plain"),
    ];
    let site = Streaming::built(&Trickle::with(fields), CacheLayer::secure, |builder| {
        builder.compression_threshold(1)
    });
    let asking = || get_with("/a", &[("accept-encoding", "gzip")]);
    let leader = site.client(asking()).await;
    let waiter = site.client(asking()).await;
    let idle = site.idle(asking()).await;
    let text = "text ".repeat(1_000);
    site.origin.sends(1, text.clone()).await;
    site.origin.ends(1).await;
    assert_all(&[&leader, &waiter], &text, &COMPLETE);
    assert_eq!(waiter.field("content-encoding"), "");
    assert_eq!(waiter.field("vary"), leader.field("vary"));
    assert_eq!(rest(idle.await.unwrap().into_body()).await.unwrap(), text);
    let stored = site.client(asking()).await;
    assert_eq!(stored.field("content-encoding"), "gzip");
}

#[cfg(feature = "encryption")]
#[tokio::test]
async fn response_that_is_stored_encrypted_is_streamed_as_it_arrives() {
    use portcullis::store::{EncryptedStore, EncryptionKey};
    let hands = Hands::default();
    let memory = MemoryStore::with_clock(hands.clock.clone());
    let key = EncryptionKey::new(1, (0..32).collect::<Vec<u8>>()).unwrap();
    let store = EncryptedStore::builder(memory, key).build().unwrap();
    let origin = Trickle::with(NAMED);
    let site = Streaming::over(&origin, hands, CacheLayer::secure(store));
    let leader = site.client(acme()).await;
    let waiter = site.client(acme()).await;
    site.origin.sends(1, "some").await;
    assert_all(&[&leader, &waiter], "some", &None);
    let purged = site.purger.purge([uri()], PurgeMode::Hard);
    purged.await.unwrap();
    let late = site.client(acme()).await;
    assert!(!late.has_head());
    site.origin.ends(1).await;
    assert_all(&[&leader, &waiter], "some", &COMPLETE);
}

#[tokio::test]
async fn streamed_response_is_a_collapsed_hit_in_its_record() {
    let (hands, origin, recent) = (
        Hands::default(),
        Trickle::with(FRESH),
        RecentRecords::default(),
    );
    let log = AccessLogLayer::builder().sink(recent.clone());
    let layer = CacheLayer::secure(MemoryStore::with_clock(hands.clock.clone()))
        .clock(hands.clock.clone())
        .runtime(hands.clone());
    let service = log
        .build()
        .unwrap()
        .layer(layer.build().unwrap().layer(origin.clone()));
    let ask = || {
        let call = service.clone().oneshot(get("/a"));
        tokio::spawn(async { call.await.unwrap().into_body().collect().await.is_ok() })
    };
    let (leader, waiter) = (ask(), ask());
    let_all_run().await;
    origin.sends(1, "half").await;
    origin.sends_frame(1, Err("gone")).await;
    assert!(!leader.await.unwrap() && !waiter.await.unwrap());
    let records = recent.all();
    let records = records.iter().map(|line| serde_json::from_str(line));
    let records: Vec<Value> = records.collect::<Result<_, _>>().unwrap();
    let mut outcomes: Vec<_> = records
        .iter()
        .map(|record| record["portcullis.cache.outcome"].as_str().unwrap())
        .collect();
    outcomes.sort_unstable();
    assert_eq!(outcomes, ["hit", "miss"]);
    for record in &records {
        assert_eq!(record["portcullis.outcome"], "body_error", "{record}");
        assert_eq!(record["http.response.body.size"], 4);
    }
}

/// A service on a loopback port, until it is dropped.
struct Listening {
    addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn on_axum(origin: &Trickle) -> Listening {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let origin = origin.clone();
    let handler = move || {
        let response = origin.respond(&get("/a"));
        std::future::ready(response.map(axum::body::Body::new))
    };
    let router = axum::Router::new()
        .route("/a", axum::routing::get(handler))
        .layer(CacheLayer::new(MemoryStore::new()));
    let task = tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
    Listening { addr, task }
}

async fn on_hyper(origin: &Trickle) -> Listening {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let origin = origin.clone();
    let handler = service_fn(move |_: Request<Incoming>| {
        std::future::ready(Ok::<_, Infallible>(origin.respond(&get("/a"))))
    });
    let service = CacheLayer::new(MemoryStore::new()).layer(handler);
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(service.clone());
            let stream = TokioIo::new(stream);
            tokio::spawn(server::Builder::new().serve_connection(stream, service));
        }
    });
    Listening { addr, task }
}

/// Sends a request over a connection of its own, and waits for the head.
async fn over_http(addr: SocketAddr) -> Response<Incoming> {
    let stream = TcpStream::connect(addr).await.unwrap();
    let (mut sender, connection) = client::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = get("/a");
    let host = HeaderValue::from_static("acme.test");
    request.headers_mut().insert("host", host);
    let response = timeout(Duration::from_secs(30), sender.send_request(request));
    response.await.expect("the head comes").unwrap()
}

#[tokio::test]
async fn server_aborts_streamed_responses_whose_fill_is_interrupted() {
    for fields in [FRESH, TEXT_10] {
        let origin = Trickle::with(fields);
        for (number, is_axum) in [(1, true), (2, false)] {
            let listening = match is_axum {
                true => on_axum(&origin).await,
                false => on_hyper(&origin).await,
            };
            let mut responses = Vec::new();
            for _ in 0..3 {
                responses.push(over_http(listening.addr).await);
            }
            assert_eq!(origin.calls(), number);
            origin.sends(number, "half").await;
            origin.sends_frame(number, Err("gone")).await;
            for response in responses {
                let body = timeout(Duration::from_secs(30), rest(response.into_body()));
                let body = body.await.expect("the body ends");
                assert!(body.is_err(), "a truncated response passes for a whole one");
            }
        }
    }
}

#[tokio::test]
async fn server_sends_streamed_responses_whole() {
    for fields in [FRESH, TEXT_10] {
        let origin = Trickle::with(fields);
        let listening = on_axum(&origin).await;
        let (leader, waiter) = (
            over_http(listening.addr).await,
            over_http(listening.addr).await,
        );
        origin.sends(1, "one, ").await;
        origin.sends(1, "other").await;
        origin.ends(1).await;
        for response in [leader, waiter] {
            let body = timeout(Duration::from_secs(30), rest(response.into_body()));
            assert_eq!(body.await.unwrap().unwrap(), "one, other");
        }
        assert_eq!(origin.calls(), 1);
    }
}

/// A piece of a body that counts itself while it is held in memory.
struct Counted(Vec<u8>, Arc<AtomicUsize>);

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn streams_of_an_endless_body_retain_no_more_than_may_be_stored() {
    let site = small(&Trickle::with(FRESH));
    let held = Arc::new(AtomicUsize::new(0));
    let leader = site.idle(get("/a")).await;
    let waiter = site.idle(get("/a")).await;
    let mut bodies = [leader.await.unwrap(), waiter.await.unwrap()].map(Response::into_body);
    let mut most = 0;
    for _ in 0..200 {
        held.fetch_add(1, Ordering::SeqCst);
        let piece = Counted(vec![b'x'; KIB], Arc::clone(&held));
        site.origin.sends(1, Bytes::from_owner(piece)).await;
        most = most.max(held.load(Ordering::SeqCst));
        for body in &mut bodies {
            body.frame().await.unwrap().unwrap();
        }
    }
    assert!((8..=9).contains(&most), "{most} KiB");
    assert_eq!((site.origin.calls(), held.load(Ordering::SeqCst)), (1, 0));
}
