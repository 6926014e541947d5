//! A store that never answers holds no request: each layer has a deadline of its own.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header::CACHE_CONTROL};
use http_body_util::Full;
use portcullis::{
    AuthOutcome, Identity, StoreErrorKind,
    api_key::{ApiKeyLayer, KeyManager, KeyRing, NewKey},
    cache::CacheLayer,
    rate_limit::{OnStoreError, Partition, Policy, Quota, RateLimitLayer},
    store::MemoryStore,
};
use tokio::task::JoinHandle;
use tower::{Layer, ServiceExt, service_fn};

use crate::{
    api_key::{handler, outcome, pepper, with_key},
    support::{bell::Bell, get, header, slow_store::SlowStore, text},
};

/// Lets a request go on until nothing is left to do but to wait.
async fn settle<T>(asked: &JoinHandle<T>) {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    assert!(!asked.is_finished(), "it did not wait for the store");
}

#[tokio::test]
async fn a_key_that_the_store_says_nothing_of_is_answered_503_in_time() {
    let (store, bell) = (SlowStore::default(), Bell::default());
    let ring = KeyRing::builder("acmepay", store.clone())
        .pepper(pepper())
        .runtime(bell.clone())
        .build()
        .unwrap();
    let manager = KeyManager::new(&ring);
    let key = manager.create(NewKey::of_owner("acme")).await.unwrap();
    let layer = ApiKeyLayer::builder(&ring).build().unwrap();
    let ask = || {
        let service = layer.layer(service_fn(handler));
        tokio::spawn(service.oneshot(with_key(key.expose_secret())))
    };
    store.is_silent(true);
    // Many who wait for one record wait no longer than the first.
    let asked = [ask(), ask(), ask()];
    settle(&asked[0]).await;
    assert_eq!(bell.set(), [Duration::from_millis(50)]);
    bell.ring();
    for asked in asked {
        let response = asked.await.unwrap().unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(header(response.headers(), "retry-after").is_some());
        let failed = outcome(&response);
        assert!(matches!(
            failed,
            AuthOutcome::StoreFailed(StoreErrorKind::Timeout)
        ));
    }
    bell.still();
    store.is_silent(false);
    let response = ask().await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

#[test]
fn a_deadline_of_no_time_is_refused() {
    let builder = KeyRing::builder("acmepay", MemoryStore::new()).pepper(pepper());
    let refused = builder.store_deadline(Duration::ZERO).build().unwrap_err();
    assert_eq!(refused.option(), "store_deadline");
}

#[tokio::test]
async fn a_limiter_whose_store_says_nothing_decides_as_for_one_that_fails() {
    let (store, bell) = (SlowStore::default(), Bell::default());
    let policy = || Policy::fixed_window("few", Quota::per_minute(1)).unwrap();
    let builder = || {
        RateLimitLayer::builder(store.clone(), Partition::identity())
            .policy(policy())
            .runtime(bell.clone())
    };
    let ask = |layer: RateLimitLayer| {
        let mut request = get("/");
        request
            .extensions_mut()
            .insert(Identity::trusted("k1").build());
        tokio::spawn(layer.layer(service_fn(handler_of_all)).oneshot(request))
    };
    store.is_silent(true);
    let asked = ask(builder().build().unwrap());
    settle(&asked).await;
    assert_eq!(bell.set(), [Duration::from_millis(25)]);
    bell.ring();
    let response = asked.await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);

    let local = OnStoreError::local(MemoryStore::new(), 1);
    let layer = builder().on_store_error(local).build().unwrap();
    let response = ask(layer.clone()).await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let response = ask(layer).await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);

    bell.still();
    let patient = builder().without_store_deadline().build().unwrap();
    let asked = ask(patient);
    bell.ring();
    settle(&asked).await;
    asked.abort();
}

#[tokio::test]
async fn a_cache_whose_store_says_nothing_goes_to_the_handler() {
    let (store, bell) = (SlowStore::default(), Bell::default());
    let layer = CacheLayer::secure(store.clone())
        .runtime(bell.clone())
        .build()
        .unwrap();
    store.is_silent(true);
    let service = layer.layer(service_fn(handler_of_all));
    let asked = tokio::spawn(service.oneshot(get("/")));
    settle(&asked).await;
    assert_eq!(bell.set(), [Duration::from_millis(25)]);
    bell.ring();
    let response = asked.await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(text(response).await, "served");
}

async fn handler_of_all(_: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::from("served"));
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, "max-age=60".parse().unwrap());
    Ok(response)
}
