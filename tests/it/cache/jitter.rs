//! Answers that came at one moment and do not go at one moment.

use std::collections::BTreeSet;

use super::cache::{App, Handler, response_with};

async fn lifetimes(app: &App) -> Vec<u64> {
    let mut ttls = Vec::new();
    for number in 0..100 {
        let seen = app.get(&format!("/{number}")).await;
        let (_, ttl) = seen.cache_status().split_once("ttl=").unwrap();
        ttls.push(ttl.parse().unwrap());
    }
    ttls
}

fn fresh_for_1000() -> Handler {
    Handler::with(&[("cache-control", "max-age=1000"), ("etag", "\"1\"")])
}

#[tokio::test]
async fn jitter_spreads_expiry_of_simultaneous_entries() {
    let app = App::configured(fresh_for_1000(), |builder| builder.jitter_percent(20));
    let ttls = lifetimes(&app).await;
    assert!(
        ttls.iter().all(|ttl| (800..=1_000).contains(ttl)),
        "{ttls:?}"
    );
    assert!(ttls.iter().collect::<BTreeSet<_>>().len() > 50, "{ttls:?}");
    app.advance_secs(900);
    for (number, ttl) in ttls.iter().enumerate() {
        let seen = app.get(&format!("/{number}")).await;
        assert_eq!(seen.is_hit(), *ttl > 900, "{}", seen.cache_status());
    }
}

#[tokio::test]
async fn entries_have_no_jitter_by_default() {
    let app = App::new(fresh_for_1000());
    assert!(lifetimes(&app).await.iter().all(|ttl| *ttl == 1_000));
}

#[tokio::test]
async fn revalidated_entries_are_jittered() {
    let handler = Handler::new(|request, call| {
        let fields = &[("cache-control", "max-age=1000"), ("etag", "\"1\"")];
        let mut response = response_with(fields, format!("call {call}"));
        if request.headers().contains_key("if-none-match") {
            *response.status_mut() = http::StatusCode::NOT_MODIFIED;
        }
        response
    });
    let app = App::configured(handler, |builder| builder.jitter_percent(20));
    let first = lifetimes(&app).await;
    app.advance_secs(1_001);
    assert_eq!(lifetimes(&app).await, first);
}

#[test]
fn more_than_half_is_refused() {
    let error = portcullis::cache::CacheLayer::secure(portcullis::store::MemoryStore::new())
        .jitter_percent(51)
        .build()
        .unwrap_err();
    assert_eq!((error.option(), error.value()), ("jitter_percent", "51"));
}
