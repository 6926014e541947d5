//! The events of all layers of a gate, as one auditor receives them.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header::CACHE_CONTROL};
use http_body_util::Full;
use portcullis::{
    AuditEvent, Auditor, ClientAddrResolver, Gate, Identity, KeyAction, ManualClock, PeerAddr,
    RequestHead, StoreErrorKind,
    access_log::{AccessLogLayer, sinks::RecentRecords},
    api_key::{ApiKeyLayer, KeyManager, KeyRing, NewKey, Pepper},
    cache::CacheLayer,
    outcome::AuthDenial,
    rate_limit::{OnStoreError, Partition, Policy, Quota, RateLimitLayer},
    store::MemoryStore,
};
use serde_json::Value;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::support::{get, slow_store::SlowStore};

#[derive(Clone, Debug, Default)]
struct Ears(Arc<Mutex<Vec<AuditEvent>>>);

impl Ears {
    /// Returns the events since the last call. Notices are left out: those that other tests cause
    /// cannot be distinguished.
    fn heard(&self) -> Vec<AuditEvent> {
        let mut heard = std::mem::take(&mut *self.0.lock().unwrap());
        heard.retain(|event| !matches!(event, AuditEvent::ConfigWarning { .. }));
        heard
    }
}

impl Auditor for Ears {
    fn audit(&self, event: &AuditEvent) {
        self.0.lock().unwrap().push(event.clone());
    }
}

/// Layers over stores that can be down, each its own.
struct House {
    records: RecentRecords,
    log: AccessLogLayer,
    keys: SlowStore,
    ring: KeyRing,
    limits: SlowStore,
    entries: SlowStore,
}

fn house() -> House {
    let clock = ManualClock::default();
    let slow = || SlowStore::over(MemoryStore::with_clock(clock.clone()));
    let keys = slow();
    let (records, log) = {
        let records = RecentRecords::default();
        let log = AccessLogLayer::builder()
            .sink(records.clone())
            .mask_client_addr();
        (records, log.build().unwrap())
    };
    House {
        records,
        log,
        ring: KeyRing::builder("acmepay", keys.clone())
            .pepper(Pepper::random(1))
            .clock(clock.clone())
            .build()
            .unwrap(),
        keys,
        limits: slow(),
        entries: slow(),
    }
}

impl House {
    fn limiter(&self) -> RateLimitLayer {
        let partition = Partition::client_addr(ClientAddrResolver::default());
        RateLimitLayer::builder(self.limits.clone(), partition)
            .policy(Policy::fixed_window("address", Quota::per_second(100)).unwrap())
            .on_store_error(OnStoreError::Allow)
            .build()
            .unwrap()
    }

    fn gate(&self) -> Gate {
        Gate::new()
            .access_log(self.log.clone())
            .rate_limit_by_address(self.limiter())
            .api_keys(ApiKeyLayer::builder(&self.ring).build().unwrap())
            .cache(CacheLayer::new(self.entries.clone()))
    }

    fn last(&self) -> Value {
        serde_json::from_str(&self.records.last().unwrap()).unwrap()
    }
}

async fn respond(_: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, Infallible> {
    let response = Response::builder().header(CACHE_CONTROL, "no-store");
    Ok(response.body(Full::default()).unwrap())
}

fn with_key(key: &str) -> Request<Full<Bytes>> {
    let mut request = get("/");
    let peer = PeerAddr(([203, 0, 113, 9], 4711).into());
    request.extensions_mut().insert(peer);
    request
        .headers_mut()
        .insert("x-api-key", key.parse().unwrap());
    request
}

async fn send<S, B>(app: &S, request: Request<Full<Bytes>>) -> StatusCode
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = Infallible> + Clone,
{
    app.clone().oneshot(request).await.unwrap().status()
}

fn down(store: &str) -> AuditEvent {
    AuditEvent::StoreDown {
        store: store.into(),
        kind: StoreErrorKind::Unavailable,
    }
}

fn up(store: &str) -> AuditEvent {
    AuditEvent::StoreUp {
        store: store.into(),
    }
}

#[tokio::test]
async fn gate_auditor_receives_key_events_and_each_denied_caller_once() {
    let (house, ears) = (house(), Ears::default());
    let gate = house.gate().auditor(ears.clone()).build().unwrap();
    let app = gate.layer(service_fn(respond));
    let key = KeyManager::new(&house.ring)
        .create(NewKey::new("freya"))
        .await
        .unwrap();
    let key_id: Arc<str> = key.id().as_str().into();
    let action = KeyAction::Created;
    let created = AuditEvent::KeyChanged {
        action,
        key_id,
        by: None,
    };
    assert_eq!(ears.heard(), [created]);

    assert_eq!(send(&app, with_key(key.expose_secret())).await, 200);
    assert_eq!(ears.heard(), []);
    assert_eq!(send(&app, with_key("garbage")).await, 401);
    let record = house.last();
    let denied = AuditEvent::AuthDenied {
        reason: AuthDenial::Malformed,
        key_id: None,
        client: Some("203.0.113.0".parse().unwrap()),
        request_id: record["portcullis.request.id"].as_str().unwrap().into(),
    };
    assert_eq!(ears.heard(), [denied]);
}

#[tokio::test]
async fn key_layer_audits_denied_callers_without_an_access_log() {
    let (house, ears) = (house(), Ears::default());
    let gate = Gate::new()
        .auditor(ears.clone())
        .api_keys(ApiKeyLayer::builder(&house.ring).build().unwrap());
    let app = gate.build().unwrap().layer(service_fn(respond));
    assert_eq!(send(&app, with_key("garbage")).await, 401);
    assert_eq!(ears.heard().len(), 1);
}

#[tokio::test]
async fn each_store_outage_and_recovery_is_audited_once_per_layer() {
    let (house, ears) = (house(), Ears::default());
    let gate = house.gate().auditor(ears.clone()).build().unwrap();
    let app = gate.layer(service_fn(respond));
    let key = KeyManager::new(&house.ring)
        .create(NewKey::new("freya"))
        .await
        .unwrap();
    let key = key.expose_secret();
    ears.heard();

    let stores = [
        (&house.limits, "rate_limit", StatusCode::OK),
        (&house.keys, "api_key", StatusCode::SERVICE_UNAVAILABLE),
        (&house.entries, "cache", StatusCode::OK),
    ];
    for (store, layer, status) in stores {
        assert_eq!(send(&app, with_key(key)).await, 200);
        assert_eq!(ears.heard(), []);
        store.is_down(true);
        for _ in 0..3 {
            assert_eq!(send(&app, with_key(key)).await, status);
        }
        assert_eq!(ears.heard(), [down(layer)]);
        let record = house.last();
        assert_eq!(record["portcullis.store.errors"], 1, "{record}");
        store.is_down(false);
        for _ in 0..3 {
            assert_eq!(send(&app, with_key(key)).await, 200);
        }
        assert_eq!(ears.heard(), [up(layer)]);
        let record = house.last();
        assert!(record["portcullis.store.duration"].is_f64(), "{record}");
        assert!(record.get("portcullis.store.errors").is_none(), "{record}");
    }
}

#[tokio::test]
async fn layer_auditor_takes_precedence_over_the_gate_auditor() {
    let (house, own, gates) = (house(), Ears::default(), Ears::default());
    let cache = CacheLayer::secure(house.entries.clone()).auditor(own.clone());
    let gate = Gate::new()
        .auditor(gates.clone())
        .without_api_keys()
        .cache(cache.build().unwrap())
        .rate_limit_by_address(house.limiter());
    let app = gate.build().unwrap().layer(service_fn(respond));
    house.entries.is_down(true);
    house.limits.is_down(true);
    let mut request = get("/");
    let peer = PeerAddr(([203, 0, 113, 9], 4711).into());
    request.extensions_mut().insert(peer);
    assert_eq!(send(&app, request).await, 200);
    assert_eq!(own.heard(), [down("cache")]);
    assert_eq!(gates.heard(), [down("rate_limit")]);
}

#[tokio::test]
async fn wrong_layer_order_is_audited() {
    let (house, ears) = (house(), Ears::default());
    let gate = Gate::new()
        .access_log(house.log.clone())
        .cache(CacheLayer::new(house.entries.clone()))
        .without_api_keys()
        .auditor(ears.clone());
    let app = gate.build().unwrap().layer(service_fn(respond));
    for _ in 0..3 {
        send(&app, with_key("a-credential-for-which-nobody-vouches")).await;
    }
    let heard = ears.0.lock().unwrap().clone();
    let warned = |event: &&AuditEvent| match event {
        AuditEvent::ConfigWarning { message } => message.contains("`CacheLayer` is `outside"),
        _ => false,
    };
    // Other tests' caches may give the same notice meanwhile: this process has one list of notices.
    assert!(heard.iter().any(|event| warned(&event)));
}

#[tokio::test]
async fn an_auditor_that_panics_stops_no_request() {
    #[derive(Debug)]
    struct Panics;

    impl Auditor for Panics {
        fn audit(&self, _: &AuditEvent) {
            panic!("a custom auditor")
        }
    }

    let house = house();
    let gate = house.gate().auditor(Panics).build().unwrap();
    let app = gate.layer(service_fn(respond));
    house.limits.is_down(true);
    assert_eq!(send(&app, with_key("garbage")).await, 401);
    assert_eq!(house.last()["http.response.status_code"], 401);
}

#[tokio::test]
async fn handle_store_outage_and_recovery_are_audited_once() {
    let (store, ears) = (SlowStore::default(), Ears::default());
    let layer = RateLimitLayer::builder(store.clone(), Partition::identity())
        .policy(Policy::fixed_window("few", Quota::per_minute(9)).unwrap())
        .auditor(ears.clone())
        .build()
        .unwrap();
    let mut request = get("/");
    let caller = Identity::builder("k1").build();
    request.extensions_mut().insert(caller);
    let (limits, head) = (layer.handle(), RequestHead::from(&request));
    let taken = limits.take(&head, 5).await.unwrap().unwrap();
    assert_eq!(ears.heard().len(), 0);

    store.is_down(true);
    assert!(limits.refund(taken, 3).await.is_err());
    assert!(limits.charge(&head, 1).await.is_err());
    assert!(limits.reset(&head).await.is_err());
    let [AuditEvent::StoreDown { kind, .. }] = ears.heard()[..] else {
        panic!("not once");
    };
    assert_eq!(kind, StoreErrorKind::Unavailable);

    store.is_down(false);
    assert!(limits.peek(&head).await.is_ok());
    assert!(matches!(ears.heard()[..], [AuditEvent::StoreUp { .. }]));
}
