//! A store that never answers holds no request: each layer has a deadline of its own.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header::CACHE_CONTROL};
use http_body_util::Full;
use portcullis::{
    AuditEvent, Auditor, Identity, StoreErrorKind,
    api_key::{ApiKeyLayer, KeyError, KeyManager, KeyQuery, KeyRing, NewKey},
    cache::CacheLayer,
    outcome::AuthOutcome,
    rate_limit::{OnStoreError, Partition, Policy, Quota, RateLimitLayer},
    store::MemoryStore,
};
use tokio::task::JoinHandle;
use tower::{Layer, ServiceExt, service_fn};

use crate::{
    api_key::api_key::{handler, outcome, pepper, with_key},
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
async fn key_lookup_times_out_with_503() {
    let (store, bell) = (SlowStore::default(), Bell::default());
    let ring = KeyRing::builder("acmepay", store.clone())
        .pepper(pepper())
        .runtime(bell.clone())
        .build()
        .unwrap();
    let manager = KeyManager::new(&ring);
    let key = manager.create(NewKey::new("acme")).await.unwrap();
    let layer = ApiKeyLayer::builder(&ring).build().unwrap();
    let ask = || {
        let service = layer.layer(service_fn(handler));
        tokio::spawn(service.oneshot(with_key(key.expose_secret())))
    };
    store.is_silent(true);
    let set_before = bell.set().len();
    // Many who wait for one record wait no longer than the first.
    let asked = [ask(), ask(), ask()];
    settle(&asked[0]).await;
    assert_eq!(bell.set()[set_before..], [Duration::from_millis(50)]);
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
    let builder = || KeyRing::builder("acmepay", MemoryStore::new()).pepper(pepper());
    let refused = builder().store_timeout(Duration::ZERO).build();
    assert_eq!(refused.unwrap_err().option(), "store_timeout");
    let refused = builder().manager_timeout(Duration::ZERO).build();
    assert_eq!(refused.unwrap_err().option(), "manager_timeout");
}

/// Records when a store becomes unavailable and available.
#[derive(Clone, Debug, Default)]
struct Ears(Arc<Mutex<Vec<&'static str>>>);

impl Auditor for Ears {
    fn audit(&self, event: &AuditEvent) {
        self.0.lock().unwrap().push(event.name());
    }
}

#[tokio::test]
async fn key_management_times_out_and_the_outage_is_audited() {
    let (store, bell, ears) = (SlowStore::default(), Bell::default(), Ears::default());
    let ring = KeyRing::builder("acmepay", store.clone())
        .pepper(pepper())
        .runtime(bell.clone())
        .auditor(ears.clone())
        .count_uses()
        .build()
        .unwrap();
    let manager = KeyManager::new(&ring);
    let key = manager.create(NewKey::new("acme")).await.unwrap();
    let layer = ApiKeyLayer::builder(&ring).build().unwrap();
    let used = layer.layer(service_fn(handler));
    let used = used.oneshot(with_key(key.expose_secret())).await.unwrap();
    assert_eq!(used.status(), StatusCode::OK);

    store.is_silent(true);
    let (id, set_before) = (key.id(), bell.set().len());
    let asked: Vec<JoinHandle<StoreErrorKind>> = vec![
        tokio::spawn({
            let ring = ring.clone();
            async move { ring.flush().await.unwrap_err().kind() }
        }),
        managed(&manager, |m| async move {
            m.create(NewKey::new("acme")).await.map(drop)
        }),
        managed(&manager, |m| async move {
            m.list(KeyQuery::all()).await.map(drop)
        }),
        managed(&manager, move |m| async move {
            m.revoke(id, "").await.map(drop)
        }),
        managed(&manager, |m| async move {
            m.purge(Duration::ZERO).await.map(drop)
        }),
    ];
    for asked in &asked {
        settle(asked).await;
    }
    assert_eq!(bell.set()[set_before..], [Duration::from_secs(5); 5]);
    bell.ring();
    for asked in asked {
        assert_eq!(asked.await.unwrap(), StoreErrorKind::Timeout);
    }
    store.is_silent(false);
    bell.still();
    assert!(manager.get(id).await.is_ok());
    let heard = ears.0.lock().unwrap();
    let store_events = heard.iter().filter(|name| name.contains("store_"));
    let told = ["portcullis.audit.store_down", "portcullis.audit.store_up"];
    assert_eq!(store_events.copied().collect::<Vec<_>>(), told);
}

/// Manages keys in the background, and returns the kind of the store's error.
fn managed<F>(
    manager: &KeyManager,
    manage: impl FnOnce(KeyManager) -> F,
) -> JoinHandle<StoreErrorKind>
where
    F: Future<Output = Result<(), KeyError>> + Send + 'static,
{
    let asked = manage(manager.clone());
    tokio::spawn(async move {
        match asked.await {
            Err(KeyError::Store(error)) => error.kind(),
            other => panic!("{other:?}"),
        }
    })
}

#[tokio::test]
async fn limiter_treats_a_timed_out_store_as_failed() {
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
            .insert(Identity::builder("k1").build());
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
    let patient = builder().without_store_timeout().build().unwrap();
    let asked = ask(patient);
    bell.ring();
    settle(&asked).await;
    asked.abort();
}

#[tokio::test]
async fn cache_with_a_timed_out_store_forwards_to_the_handler() {
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
