//! The gate: which layers fit one another, and what the whole does.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Method, Request, Response, header::CACHE_CONTROL};
use http_body_util::Full;
use portcullis::{
    ConfigError, Gate, Identity, ManualClock, PeerAddr,
    api_key::{ApiKeyLayer, KeyManager, KeyRing, NewKey, Pepper},
    cache::CacheLayer,
    rate_limit::{Partition, Policy, Quota, RateLimitLayer, Tiers},
    store::MemoryStore,
};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{header, request, stack::Stack, text};

async fn stack() -> Stack {
    let clock = ManualClock::default();
    Stack::over(MemoryStore::with_clock(clock.clone()), clock).await
}

fn from_peer(mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    let peer = PeerAddr(([203, 0, 113, 9], 4711).into());
    request.extensions_mut().insert(peer);
    request
}

/// Asserts that an error names the option, its value and the fix.
fn assert_names(error: &ConfigError, option: &str, value: &str, fix: &str) {
    assert_eq!(error.option(), option, "{error}");
    assert!(error.value().contains(value), "{error}");
    assert!(error.to_string().contains(fix), "{error}");
}

#[tokio::test]
async fn a_cache_outside_of_authentication_is_refused() {
    let stack = stack().await;
    let gate = Gate::new().cache(stack.cache.clone());
    let error = gate.clone().build().unwrap_err();
    assert_names(
        &error,
        "cache",
        "outside of authentication",
        "`without_api_keys`",
    );
    gate.clone().without_api_keys().build().unwrap();
    gate.api_keys(stack.api_keys).build().unwrap();
}

#[tokio::test]
async fn limits_by_caller_without_keys_are_refused() {
    let stack = stack().await;
    let gate = Gate::new().rate_limit_by_identity(stack.callers.clone());
    let error = gate.clone().build().unwrap_err();
    assert_names(&error, "rate_limit_by_identity", "identity", "`api_keys`");
    gate.without_api_keys().build().unwrap();
    // Limits by address need no keys, in either place.
    Gate::new()
        .rate_limit_by_identity(stack.addresses)
        .build()
        .unwrap();
}

#[tokio::test]
async fn limits_before_the_keys_that_count_by_caller_are_refused() {
    let stack = stack().await;
    let gate = Gate::new()
        .api_keys(stack.api_keys)
        .rate_limit_by_address(stack.callers);
    assert_names(
        &gate.build().unwrap_err(),
        "rate_limit_by_address",
        "identity",
        "`rate_limit_by_identity`",
    );
}

#[test]
fn bad_configuration_names_option_value_and_fix() {
    let zero = Policy::token_bucket("zero", Quota::per_second(0)).unwrap_err();
    assert!(
        zero.to_string().contains('0') && zero.to_string().contains("; "),
        "{zero}"
    );

    let prefix = KeyRing::builder("", MemoryStore::new())
        .pepper(Pepper::random(1))
        .build()
        .unwrap_err();
    assert_eq!(prefix.option(), "prefix");
    assert!(prefix.to_string().contains("; "), "{prefix}");

    let pepper = Pepper::new(1, [7; 31]).unwrap_err();
    assert_names(&pepper, "pepper", "31 bytes", "openssl rand");

    let one = Policy::token_bucket("one", Quota::per_second(1)).unwrap();
    let tiers = Tiers::new("gold").tier("free", [one]);
    let tier = RateLimitLayer::builder(MemoryStore::new(), Partition::identity())
        .tiers(tiers)
        .build()
        .unwrap_err();
    assert_names(&tier, "fallback tier", "gold", "add it");
}

#[tokio::test]
async fn layers_have_the_safe_order_regardless_of_insertion() {
    let stack = stack().await;
    let backwards = Gate::new()
        .cache(stack.cache.clone())
        .rate_limit_by_identity(stack.callers.clone())
        .api_keys(stack.api_keys.clone())
        .rate_limit_by_address(stack.addresses.clone())
        .access_log(stack.access_log.clone())
        .build()
        .unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let service = backwards.layer(service_fn(move |request: Request<Full<Bytes>>| {
        let call = counted.fetch_add(1, Ordering::SeqCst) + 1;
        let caller = request.extensions().get::<Identity>().cloned();
        async move {
            let owner = caller.map(|caller| caller.owner().unwrap_or_default().to_owned());
            let body = format!("{owner:?} call {call}");
            let response = Response::builder().header(CACHE_CONTROL, "max-age=60");
            Ok::<_, Infallible>(response.body(Full::from(body)).unwrap())
        }
    }));

    let anonymous = service
        .clone()
        .oneshot(from_peer(request(Method::GET, "/data")))
        .await;
    assert_eq!(anonymous.unwrap().status(), 401);

    for _ in 0..2 {
        let mut with_key = from_peer(request(Method::GET, "/data"));
        with_key
            .headers_mut()
            .insert("host", "acme.test".parse().unwrap());
        with_key
            .headers_mut()
            .insert("x-api-key", stack.key.parse().unwrap());
        let response = service.clone().oneshot(with_key).await.unwrap();
        assert_eq!(
            header(response.headers(), "cache-control"),
            Some("max-age=60, private")
        );
        assert_eq!(text(response).await, "Some(\"freya\") call 1");
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1);

    // One record describes the actions of all layers, also for the rejected request.
    let records: Vec<serde_json::Value> = stack
        .records
        .all()
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(records.len(), 3);
    assert_eq!(records[0]["portcullis.auth.reason"], "missing");
    assert_eq!(records[1]["portcullis.cache.outcome"], "miss");
    assert_eq!(records[2]["portcullis.cache.outcome"], "hit");
    assert_eq!(records[2]["portcullis.rate_limit.outcome"], "allowed");
    assert_eq!(records[2]["portcullis.auth.outcome"], "allowed");
}

#[tokio::test]
async fn cache_outside_the_key_layer_bypasses_credentials() {
    let stack = stack().await;
    let wrong = tower::ServiceBuilder::new()
        .layer(stack.cache.clone())
        .layer(stack.api_keys.clone())
        .service(service_fn(async |_: Request<Full<Bytes>>| {
            let response = Response::builder().header(CACHE_CONTROL, "max-age=60");
            Ok::<_, Infallible>(response.body(Full::<Bytes>::from("secret")).unwrap())
        }));
    let mut with_key = from_peer(request(Method::GET, "http://acme.test/data"));
    with_key
        .headers_mut()
        .insert("x-api-key", stack.key.parse().unwrap());
    let first = wrong.clone().oneshot(with_key).await.unwrap();
    assert_eq!(text(first).await, "secret");
    let second = wrong
        .oneshot(from_peer(request(Method::GET, "http://acme.test/data")))
        .await;
    assert_eq!(second.unwrap().status(), 401);
}

#[tokio::test]
async fn a_revoked_key_gets_nothing_from_the_store_either() {
    let clock = ManualClock::default();
    let store = MemoryStore::with_clock(clock.clone());
    let ring = KeyRing::builder("acmepay", store.clone())
        .pepper(Pepper::random(1))
        .clock(clock.clone())
        .build()
        .unwrap();
    let manager = KeyManager::new(&ring);
    let key = manager.create(NewKey::new("freya")).await.unwrap();
    let cache = CacheLayer::secure(store).clock(clock).build().unwrap();
    let gate = Gate::new()
        .api_keys(ApiKeyLayer::builder(&ring).build().unwrap())
        .cache(cache)
        .build()
        .unwrap();
    let service = gate.layer(service_fn(async |_: Request<Full<Bytes>>| {
        let response = Response::builder().header(CACHE_CONTROL, "public, max-age=60");
        Ok::<_, Infallible>(response.body(Full::<Bytes>::from("secret")).unwrap())
    }));
    let ask = async || {
        let mut request = from_peer(request(Method::GET, "/data"));
        let secret = key.expose_secret().parse().unwrap();
        request.headers_mut().insert("x-api-key", secret);
        let response = service.clone().oneshot(request).await.unwrap();
        let said = header(response.headers(), "cache-status").map(str::to_owned);
        (response.status().as_u16(), said, text(response).await)
    };
    assert_eq!(ask().await.2, "secret");
    let (status, said, _) = ask().await;
    assert!(status == 200 && said.unwrap().contains("; hit"));
    manager.revoke(key.id(), "a test").await.unwrap();
    let (status, said, body) = ask().await;
    assert_eq!((status, said), (401, None));
    assert!(!body.contains("secret"));
}

#[tokio::test]
async fn a_gate_of_nothing_lets_everything_pass() {
    let service =
        Gate::default()
            .build()
            .unwrap()
            .layer(service_fn(async |_: Request<Full<Bytes>>| {
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("ok")))
            }));
    let response = service.oneshot(request(Method::GET, "/")).await.unwrap();
    assert_eq!(text(response).await, "ok");
}
