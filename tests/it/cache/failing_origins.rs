//! Origins that fail, or do not respond.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use http::StatusCode;
use portcullis::{AuditEvent, Auditor};

use super::cache::{get_with, response_with};
use crate::support::{
    get,
    hands::let_all_run,
    origin::{Origin, Site, all},
};

type Fields = &'static [(&'static str, &'static str)];

const STALE_IF_ERROR: Fields = &[("cache-control", "max-age=1, stale-if-error=600")];
const WHILE_REVALIDATE: Fields = &[("cache-control", "max-age=1, stale-while-revalidate=600")];

/// A site whose response is stored and stale.
async fn stale(fields: Fields, events: &Events) -> Site {
    let origin = Origin::new(move |_, call| Ok(response_with(fields, format!("call {call}"))));
    let site = Site::secure(&origin, |builder| builder.auditor(events.clone()));
    origin.let_through(1);
    site.send(get("/a")).await.unwrap();
    site.advance_secs(2).await;
    site
}

#[derive(Clone, Debug, Default)]
struct Events(Arc<Mutex<Vec<String>>>);

impl Auditor for Events {
    fn audit(&self, event: &AuditEvent) {
        if let AuditEvent::CacheRefreshFailed { cause } = event {
            self.0.lock().unwrap().push(cause.to_string());
        }
    }
}

#[tokio::test]
async fn a_failing_origin_gets_one_call_and_waiters_the_stale_response() {
    for status in [None, Some(500), Some(502), Some(503), Some(504)] {
        let site = stale(STALE_IF_ERROR, &Events::default()).await;
        let origin = &site.origin;
        origin.responds(move |_, _| match status {
            None => Err("connection refused"),
            Some(status) => {
                let mut response = response_with(&[], "failed");
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
                Ok(response)
            }
        });
        let burst = site.start_all([(); 50].map(|()| get("/a"))).await;
        assert_eq!(origin.calls(), 2, "{status:?}");
        origin.let_through(1);
        for received in all(burst).await {
            assert_eq!(received.unwrap().body, "call 1");
        }
        assert_eq!(origin.calls(), 2, "{status:?}");
    }
}

#[tokio::test]
async fn pauses_after_failures_double_and_end_with_a_success() {
    for fields in [STALE_IF_ERROR, WHILE_REVALIDATE] {
        let site = stale(fields, &Events::default()).await;
        let origin = &site.origin;
        origin.responds(|_, _| Err("connection refused"));
        origin.open();
        let mut calls = Vec::new();
        for _ in 0..100 {
            let seen = site.send(get("/a")).await.unwrap();
            assert_eq!(seen.body, "call 1");
            let_all_run().await;
            calls.push(origin.calls());
            site.advance_secs(1).await;
        }
        // 1, 2, 4, 8, 16, 30, 30 seconds apart, and each a tenth longer or shorter.
        let tried = calls.last().unwrap() - 1;
        assert!((6..=9).contains(&tried), "{tried} calls in 100 s");
        assert!(calls[15] <= 7, "{calls:?}");
        origin.responds(move |_, call| Ok(response_with(fields, format!("call {call}"))));
        site.advance_secs(40).await;
        site.send(get("/a")).await.unwrap();
        let_all_run().await;
        let seen = site.send(get("/a")).await.unwrap();
        assert_ne!(seen.body, "call 1");
        assert!(seen.is_hit());
    }
}

#[tokio::test]
async fn stale_response_during_backoff_reports_backoff() {
    let site = stale(STALE_IF_ERROR, &Events::default()).await;
    site.origin.responds(|_, _| Err("connection refused"));
    site.origin.open();
    let first = site.send(get("/a")).await.unwrap();
    assert_eq!(first.cache_status(), "portcullis; hit; ttl=-1");
    let second = site.send(get("/a")).await.unwrap();
    assert_eq!(
        second.cache_status(),
        "portcullis; hit; ttl=-1; detail=backoff"
    );
}

#[tokio::test]
async fn a_pause_spares_only_requests_that_may_be_sent_the_stale_response() {
    let site = stale(
        &[("cache-control", "max-age=1"), ("etag", "\"a\"")],
        &Events::default(),
    )
    .await;
    site.origin.responds(|_, _| Err("connection refused"));
    site.origin.open();
    for calls in 2..6 {
        site.send(get("/a")).await.unwrap_err();
        assert_eq!(site.origin.calls(), calls);
    }
}

#[tokio::test]
async fn a_refresh_that_hangs_is_dropped_and_tried_again_after_a_pause() {
    let events = Events::default();
    let site = stale(WHILE_REVALIDATE, &events).await;
    let origin = &site.origin;
    for secs in [0, 10, 19] {
        site.advance_secs(secs).await;
        assert_eq!(site.send(get("/a")).await.unwrap().body, "call 1");
        let_all_run().await;
        assert_eq!(origin.calls(), 2);
    }
    // 30 seconds after it began, the refresh is dropped.
    site.advance_secs(2).await;
    assert_eq!(*events.0.lock().unwrap(), ["timeout"]);
    site.advance_secs(2).await;
    site.send(get("/a")).await.unwrap();
    let_all_run().await;
    assert_eq!(origin.calls(), 3);
    origin.open();
    let_all_run().await;
    assert_eq!(site.send(get("/a")).await.unwrap().body, "call 3");
}

#[tokio::test]
async fn failed_refreshes_are_audited_with_their_cause() {
    let events = Events::default();
    let site = stale(WHILE_REVALIDATE, &events).await;
    site.origin.open();
    site.origin.responds(|_, _| Err("connection refused"));
    site.send(get("/a")).await.unwrap();
    let_all_run().await;
    site.advance_secs(2).await;
    site.origin.responds(|_, _| {
        let mut response = response_with(&[], "");
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        Ok(response)
    });
    site.send(get("/a")).await.unwrap();
    let_all_run().await;
    assert_eq!(*events.0.lock().unwrap(), ["error", "status"]);
}

#[tokio::test]
async fn a_hanging_origin_holds_up_each_request_at_most_once() {
    let site = stale(STALE_IF_ERROR, &Events::default()).await;
    let origin = &site.origin;
    let mut burst = site.start_all([(); 3].map(|()| get("/a"))).await;
    assert_eq!(origin.calls(), 2);
    site.advance_secs(6).await;
    // Waiters are sent the stale response; the leader still waits.
    let leader = burst.remove(0);
    for received in all(burst).await {
        assert_eq!(received.unwrap().body, "call 1");
    }
    assert_eq!(origin.calls(), 2);
    assert!(!leader.is_finished());
    // The flight is retired: no request waits behind the leader any more.
    assert_eq!(site.send(get("/a")).await.unwrap().body, "call 1");
    leader.abort();
}

#[tokio::test]
async fn requests_for_an_unstorable_url_do_not_wait_for_a_hung_leader() {
    let origin = Origin::new(|_, call| Ok(response_with(&[], format!("call {call}"))));
    let site = Site::secure(&origin, |builder| builder.max_wait(Duration::from_secs(5)));
    let burst = site.start_all([get("/a"), get("/a")]).await;
    assert_eq!(origin.calls(), 1);
    site.advance_secs(6).await;
    assert_eq!(origin.calls(), 2);
    let more = site.start_all([get("/a"), get("/a"), get("/a")]).await;
    assert_eq!(origin.calls(), 5);
    origin.open();
    all(burst).await;
    all(more).await;
}

#[tokio::test]
async fn a_cold_failure_is_tried_by_one_waiter_and_then_by_all() {
    let origin = Origin::new(|_, _| Err("connection refused"));
    let site = Site::secure(&origin, |builder| builder);
    let burst = site.start_all([(); 10].map(|()| get("/a"))).await;
    assert_eq!(origin.calls(), 1);
    origin.let_through(1);
    let_all_run().await;
    assert_eq!(origin.calls(), 2);
    origin.let_through(1);
    let_all_run().await;
    assert_eq!(origin.calls(), 10);
    origin.open();
    assert!(all(burst).await.iter().all(Result::is_err));
}

#[tokio::test]
async fn a_request_that_accepts_errors_is_sent_the_stale_response_in_a_pause_too() {
    let origin = Origin::new(|_, _| {
        Ok(response_with(
            &[("cache-control", "max-age=1"), ("etag", "\"a\"")],
            "old",
        ))
    });
    origin.open();
    let site = Site::secure(&origin, |builder| builder.honor_request_directives(true));
    site.send(get("/a")).await.unwrap();
    site.advance_secs(3).await;
    origin.responds(|_, _| Err("connection refused"));
    let lenient = || get_with("/a", &[("cache-control", "stale-if-error=60")]);
    for _ in 0..3 {
        assert_eq!(site.send(lenient()).await.unwrap().body, "old");
    }
    assert_eq!(origin.calls(), 2);
    site.send(get("/a")).await.unwrap_err();
}
