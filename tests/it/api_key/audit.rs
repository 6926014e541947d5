//! Audit events of keys and of rejected callers.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::StatusCode;
use portcullis::{
    AuditEvent, Auditor, KeyAction, ManualClock, PeerAddr, TokioRuntime,
    access_log::{
        AccessLogLayer, LogQuery, LogStore, LogStream,
        sinks::{LogQueue, RecentRecords},
    },
    api_key::{
        ApiKeyLayer, ApiKeyStore, KeyManager, KeyRing, KeyUpdate, NewKey, RequireScopesLayer,
    },
    outcome::AuthDenial,
    store::MemoryStore,
};
use tower::{Layer, ServiceExt, service_fn};

use super::api_key::{handler, pepper, send, with_key};
use crate::support::get;

const HOUR: Duration = Duration::from_secs(3_600);

/// Stores its events; optionally panics on revocations.
#[derive(Clone, Debug, Default)]
struct Ears {
    heard: Arc<Mutex<Vec<AuditEvent>>>,
    panic_over_revocations: bool,
}

impl Ears {
    fn heard(&self) -> Vec<AuditEvent> {
        std::mem::take(&mut *self.heard.lock().unwrap())
    }

    fn names(&self) -> Vec<&'static str> {
        let name = |event: &AuditEvent| event.name().trim_start_matches("portcullis.audit.");
        self.heard().iter().map(name).collect()
    }
}

impl Auditor for Ears {
    fn audit(&self, event: &AuditEvent) {
        self.heard.lock().unwrap().push(event.clone());
        let revoked = matches!(
            event,
            AuditEvent::KeyChanged {
                action: KeyAction::Revoked,
                ..
            }
        );
        assert!(!(revoked && self.panic_over_revocations), "as it was asked");
    }
}

fn ring(auditor: impl Auditor, clock: &ManualClock) -> KeyRing {
    KeyRing::builder("acmepay", MemoryStore::new())
        .pepper(pepper())
        .clock(clock.clone())
        .auditor(auditor)
        .build()
        .unwrap()
}

#[tokio::test]
async fn each_change_is_audited_once_with_its_actor() {
    let (ears, clock) = (Ears::default(), ManualClock::default());
    let manager = KeyManager::new(&ring(ears.clone(), &clock)).acting_as("alice");
    let key = manager.create(NewKey::new("acme")).await.unwrap();
    let by = Some("alice".into());
    let key_id: Arc<str> = key.id().as_str().into();
    let action = KeyAction::Created;
    assert_eq!(
        ears.heard(),
        [AuditEvent::KeyChanged { action, key_id, by }]
    );

    for _ in 0..2 {
        manager.disable(key.id(), "").await.unwrap();
    }
    manager.enable(key.id()).await.unwrap();
    let update = KeyUpdate::new().tier("pro");
    manager.update(key.id(), update).await.unwrap();
    let heir = manager.rotate(key.id(), HOUR).await.unwrap();
    manager.revoke(heir.id(), "").await.unwrap();
    manager.report_leaked(key.expose_secret()).await.unwrap();
    let short = manager.create(NewKey::new("acme")).await.unwrap();
    manager.expire(short.id()).await.unwrap();
    clock.advance(HOUR);
    assert_eq!(manager.purge(Duration::ZERO).await.unwrap(), 3);
    assert_eq!(manager.purge(Duration::ZERO).await.unwrap(), 0);
    assert_eq!(
        ears.names(),
        [
            "key_disabled",
            "key_enabled",
            "key_updated",
            "key_rotated",
            "key_created",
            "key_revoked",
            "key_leaked",
            "key_created",
            "key_expired",
            "keys_purged",
        ]
    );
}

/// Threat X1: a custom auditor that panics undoes no change and rejects no caller.
#[tokio::test]
async fn a_panicking_auditor_undoes_no_change() {
    let ears = Ears {
        panic_over_revocations: true,
        ..Ears::default()
    };
    let manager = KeyManager::new(&ring(ears.clone(), &ManualClock::default()));
    let key = manager.create(NewKey::new("acme")).await.unwrap();
    let revoked = manager.revoke(key.id(), "").await.unwrap();
    assert_eq!(revoked.version(), 2);
    assert_eq!(ears.names(), ["key_created", "key_revoked"]);
}

#[tokio::test]
async fn denied_caller_is_audited_with_address_and_verified_key_id() {
    let (ears, clock) = (Ears::default(), ManualClock::default());
    let ring = ring(Ears::default(), &clock);
    let manager = KeyManager::new(&ring);
    let key = manager.create(NewKey::new("acme")).await.unwrap();
    let layer = ApiKeyLayer::builder(&ring)
        .auditor(ears.clone())
        .build()
        .unwrap();
    let address: SocketAddr = "203.0.113.9:4711".parse().unwrap();
    let ask = async |mut request: http::Request<_>| {
        request.extensions_mut().insert(PeerAddr(address));
        send(layer.clone(), request).await.status()
    };
    assert_eq!(ask(with_key(key.expose_secret())).await, StatusCode::OK);
    assert_eq!(ears.heard(), []);

    let denied = |reason, key_id| AuditEvent::AuthDenied {
        reason,
        key_id,
        client: Some(address.ip()),
        request_id: "".into(),
    };
    assert_eq!(ask(get("/")).await, StatusCode::UNAUTHORIZED);
    assert_eq!(ears.heard(), [denied(AuthDenial::Missing, None)]);
    manager.revoke(key.id(), "").await.unwrap();
    let again = ask(with_key(key.expose_secret())).await;
    assert_eq!(again, StatusCode::UNAUTHORIZED);
    let key_id = Some(key.id().as_str().into());
    assert_eq!(ears.heard(), [denied(AuthDenial::Revoked, key_id)]);
}

#[tokio::test]
async fn scope_denial_is_audited_with_the_request_id() {
    let ears = Ears::default();
    let route = RequireScopesLayer::none().auditor(ears.clone());
    let log = AccessLogLayer::new(RecentRecords::default());
    let app = log.layer(route.layer(service_fn(handler)));
    let response = app.oneshot(get("/")).await.unwrap();
    let name = response.headers()["x-request-id"].to_str().unwrap();
    let denied = AuditEvent::AuthDenied {
        reason: AuthDenial::Missing,
        key_id: None,
        client: None,
        request_id: name.into(),
    };
    assert_eq!(ears.heard(), [denied]);
}

/// Threat A14: a record that another writer wrote is reported.
#[tokio::test]
async fn record_without_seal_is_audited_as_forged() {
    let (ears, store) = (Ears::default(), MemoryStore::new());
    let builder = || KeyRing::builder("acmepay", store.clone()).pepper(pepper());
    let unsealed = KeyManager::new(&builder().build().unwrap());
    let key = unsealed.create(NewKey::new("acme")).await.unwrap();
    let ring = builder()
        .seal_records()
        .auditor(ears.clone())
        .build()
        .unwrap();
    let layer = ApiKeyLayer::builder(&ring).build().unwrap();
    let response = send(layer, with_key(key.expose_secret())).await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let key_id = key.id().as_str().into();
    assert_eq!(ears.heard(), [AuditEvent::KeyRecordForged { key_id }]);
    assert!(store.find(key.id()).await.unwrap().is_some());
}

#[tokio::test]
async fn access_log_queue_stores_key_events() {
    let log = MemoryStore::new();
    let queue = LogQueue::builder(log.clone(), TokioRuntime)
        .build()
        .unwrap();
    let manager = KeyManager::new(&ring(queue.clone(), &ManualClock::default()));
    let manager = manager.acting_as("alice");
    let key = manager.create(NewKey::new("acme")).await.unwrap();
    manager.report_leaked(key.expose_secret()).await.unwrap();
    assert!(queue.flush().await);
    let latest_first = log.recent(LogStream::Audit, &LogQuery::default()).await;
    let latest_first = latest_first.unwrap();
    assert_eq!(latest_first.len(), 2);
    for (entry, name) in latest_first.iter().zip(["key_leaked", "key_created"]) {
        let line: serde_json::Value = serde_json::from_slice(&entry.json).unwrap();
        assert_eq!(line["event.name"], format!("portcullis.audit.{name}"));
        assert_eq!(line["portcullis.auth.key_id"], key.id().as_str());
        assert_eq!(line["portcullis.audit.by"], "alice");
    }
}
