//! An owner's administrator cannot extend, lift or remove what the service decided.

use std::{sync::Arc, time::Duration};

use http::{Method, StatusCode, request::Parts};
use portcullis::{
    AuditEvent, Auditor, Clock, KeyAction, ManualClock, StoreFuture,
    api_key::{
        KeyError, KeyManager, KeyRing, KeyUpdate, NewKey,
        admin::{self, Administrator},
        record::KeyState,
    },
    store::MemoryStore,
};
use serde_json::{Value, json};

use super::{
    admin::{Office, problem},
    api_key::{Keys, pepper, with_key},
};

const DAY: u64 = 86_400;

impl Office {
    async fn accepts(&self, secret: &str) -> bool {
        self.keys.send(with_key(secret)).await.status() == StatusCode::OK
    }

    /// Sends an update by this administrator for the version that the key has.
    async fn update(&self, who: &str, id: &str, mut change: Value) -> StatusCode {
        let shown = self.get("root", &format!("/keys/{id}")).await;
        change["version"] = shown.body["key"]["version"].clone();
        self.patch(who, id, change).await.status
    }

    async fn act(&self, who: &str, id: &str, action: &str) -> StatusCode {
        let path = format!("/keys/{id}/{action}");
        self.post(who, &path, Value::Null).await.status
    }

    async fn status(&self, id: &str) -> Value {
        let shown = self.get("root", &format!("/keys/{id}")).await;
        shown.body["key"]["status"].clone()
    }
}

#[tokio::test]
async fn an_owner_cannot_revive_a_key_that_the_service_expired() {
    for tier in [Value::Null, json!("free"), json!("enterprise")] {
        let office = Office::new();
        let key = json!({"owner": "acme", "tier": tier, "scopes": ["data.read"]});
        let (id, secret) = office.create(key).await;
        assert_eq!(office.act("root", &id, "expire").await, StatusCode::OK);
        let now = office.keys.clock.wall().as_secs();
        for expires_at in [Value::Null, json!(now + DAY), json!(u64::MAX / 1_000_000)] {
            let change = json!({"expires_at": expires_at});
            let status = office.update("acme", &id, change).await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{tier} {expires_at}");
        }
        for action in ["enable", "expire", "rotate"] {
            office.act("acme", &id, action).await;
            assert!(!office.accepts(&secret).await, "{action}");
        }
        assert_eq!(
            office
                .update("root", &id, json!({"expires_at": null}))
                .await,
            StatusCode::OK
        );
        assert!(office.accepts(&secret).await);
    }
}

/// Also after the owner expired the key first: the service's decision takes over.
#[tokio::test]
async fn an_owner_cannot_revive_a_key_that_the_service_expired_after_it() {
    let office = Office::new();
    let key = json!({"owner": "acme", "scopes": ["data.read"]});
    let (id, secret) = office.create(key).await;
    let revive = || office.update("acme", &id, json!({"expires_at": null}));
    office.act("acme", &id, "expire").await;
    assert_eq!(revive().await, StatusCode::OK, "its own decision");
    assert!(office.accepts(&secret).await);
    office.act("acme", &id, "expire").await;
    office.act("root", &id, "expire").await;
    assert_eq!(revive().await, StatusCode::FORBIDDEN);
    assert!(!office.accepts(&secret).await);
}

#[tokio::test]
async fn owner_rotation_does_not_extend_the_expiry() {
    let office = Office::new();
    let trial = json!({"owner": "acme", "tier": "enterprise", "credits": "1000000/day",
                       "scopes": ["data.read"], "expires_in_secs": 7 * DAY});
    let (mut id, _) = office.create(trial).await;
    let mut secrets = Vec::new();
    for _ in 0..3 {
        office.keys.clock.advance(Duration::from_secs(2 * DAY));
        let rotated = office
            .post("acme", &format!("/keys/{id}/rotate"), Value::Null)
            .await;
        assert_eq!(rotated.status, StatusCode::CREATED);
        id = rotated.body["key"]["id"].as_str().unwrap().to_owned();
        secrets.push(rotated.body["secret"].as_str().unwrap().to_owned());
    }
    assert!(office.accepts(secrets.last().unwrap()).await);
    let extended = office
        .update("acme", &id, json!({"expires_at": null}))
        .await;
    assert_eq!(extended, StatusCode::FORBIDDEN);
    office.keys.clock.advance(Duration::from_secs(DAY));
    for secret in &secrets {
        assert!(!office.accepts(secret).await);
    }
}

#[tokio::test]
async fn a_rotation_by_the_service_renews_the_lifetime() {
    let office = Office::new();
    let key = json!({"owner": "acme", "scopes": ["data.read"], "expires_in_secs": DAY});
    let (id, _) = office.create(key).await;
    office.keys.clock.advance(Duration::from_secs(DAY / 2));
    let path = format!("/keys/{id}/rotate");
    let rotated = office.post("root", &path, Value::Null).await;
    let now = office.keys.clock.wall().as_secs();
    assert_eq!(rotated.body["key"]["expires_at"], now + DAY);
}

#[tokio::test]
async fn an_owner_cannot_enable_a_key_that_the_service_disabled_after_it() {
    let office = Office::new();
    let key = json!({"owner": "acme", "scopes": ["data.read"]});
    let (id, secret) = office.create(key).await;
    office.act("acme", &id, "disable").await;
    let reason = json!({"reason": "abuse"});
    let disabled = office
        .post("root", &format!("/keys/{id}/disable"), reason)
        .await;
    let change = &disabled.body["key"]["status_change"];
    assert_eq!(
        (&change["by"], &change["reason"]),
        (&json!("root"), &json!("abuse"))
    );
    assert_eq!(
        office.act("acme", &id, "enable").await,
        StatusCode::FORBIDDEN
    );
    // Nor by disabling it once more.
    office.act("acme", &id, "disable").await;
    assert_eq!(
        office.act("acme", &id, "enable").await,
        StatusCode::FORBIDDEN
    );
    assert!(!office.accepts(&secret).await);
    office.act("root", &id, "enable").await;
    assert!(office.accepts(&secret).await);
}

/// An administrator of the owner that has the name of one of the service's is not one of those.
#[tokio::test]
async fn owner_administrator_with_a_service_name_gains_no_rights() {
    let office = Office::open(Keys::new(), |head: &Parts| {
        let is_root = head
            .headers
            .get("x-i-am")
            .is_some_and(|name| name == "root");
        let admin = match is_root {
            true => Administrator::global("alice"),
            false => Administrator::for_owner("alice", "acme").may_grant_scopes(["data.read"]),
        };
        StoreFuture::ready(Some(admin))
    });
    let key = json!({"owner": "acme", "scopes": ["data.read"]});
    let (id, _) = office.create(key).await;
    office.act("root", &id, "disable").await;
    assert_eq!(
        office.act("acme", &id, "enable").await,
        StatusCode::FORBIDDEN
    );
}

#[tokio::test]
async fn an_owner_narrows_the_services_constraints_and_never_widens_them() {
    let office = Office::new();
    let networks = json!({"networks": ["10.0.0.0/8"], "methods": ["GET", "HEAD"]});
    let key = json!({"owner": "acme", "scopes": ["data.read"], "constraints": networks});
    let (id, secret) = office.create(key).await;
    let constrain = async |who: &str, constraints: Value| {
        let change = json!({"constraints": constraints});
        office.update(who, &id, change).await
    };
    for wider in [
        Value::Null,
        json!({}),
        json!({"networks": ["10.0.0.0/8"]}),
        json!({"methods": ["GET"]}),
        json!({"networks": ["0.0.0.0/0"], "methods": ["GET"]}),
        json!({"networks": ["::/0"], "methods": ["GET"]}),
        json!({"networks": ["10.0.0.0/8", "192.0.2.1"], "methods": ["GET"]}),
        json!({"networks": ["10.0.0.0/8"], "methods": ["GET", "DELETE"]}),
        json!({"origins": ["https://app.example"]}),
    ] {
        let status = constrain("acme", wider.clone()).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{wider}");
    }
    let narrower = json!({"networks": ["10.1.0.0/16"], "methods": ["GET"]});
    assert_eq!(constrain("acme", narrower).await, StatusCode::OK);
    // Narrowing them does not make them the owner's.
    assert_eq!(constrain("acme", Value::Null).await, StatusCode::FORBIDDEN);
    assert!(!office.accepts(&secret).await);
    assert_eq!(constrain("root", Value::Null).await, StatusCode::OK);
    assert!(office.accepts(&secret).await);
}

#[tokio::test]
async fn an_owner_lifts_only_the_restrictions_that_it_added_itself() {
    let office = Office::new();
    let key = json!({"owner": "acme", "scopes": ["data.read"]});
    let (id, secret) = office.create(key).await;
    let now = office.keys.clock.wall().as_secs();
    let own = json!({"constraints": {"methods": ["PUT"]}, "expires_at": now + DAY,
                     "not_before": now + 1});
    let lift = json!({"constraints": null, "expires_at": null, "not_before": null});
    assert_eq!(
        office.update("acme", &id, own.clone()).await,
        StatusCode::OK
    );
    assert!(!office.accepts(&secret).await);
    assert_eq!(
        office.update("acme", &id, lift.clone()).await,
        StatusCode::OK
    );
    assert!(office.accepts(&secret).await);
    // The service confirms them: they are its own from then on.
    assert_eq!(
        office.update("acme", &id, own.clone()).await,
        StatusCode::OK
    );
    assert_eq!(office.update("root", &id, own).await, StatusCode::OK);
    for one in ["constraints", "expires_at", "not_before"] {
        let status = office.update("acme", &id, json!({one: null})).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{one}");
    }
    assert_eq!(office.update("root", &id, lift).await, StatusCode::OK);
    assert!(office.accepts(&secret).await);
}

#[tokio::test]
async fn an_owner_cannot_move_the_services_begin_forward() {
    let office = Office::new();
    let now = office.keys.clock.wall().as_secs();
    let key = json!({"owner": "acme", "scopes": ["data.read"], "not_before": now + DAY});
    let (id, _) = office.create(key).await;
    for earlier in [Value::Null, json!(now), json!(now + DAY - 1)] {
        let status = office
            .update("acme", &id, json!({"not_before": earlier}))
            .await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{earlier}");
    }
    let later = json!({"not_before": now + 2 * DAY});
    assert_eq!(office.update("acme", &id, later).await, StatusCode::OK);
}

/// The service took a scope away: that the owner could grant it to a new key changes nothing.
#[tokio::test]
async fn an_owner_cannot_return_a_scope_or_a_tier_that_the_service_took_away() {
    let office = Office::open(Keys::new(), |head: &Parts| {
        let is_root = head
            .headers
            .get("x-i-am")
            .is_some_and(|name| name == "root");
        let admin = match is_root {
            true => Administrator::global("root"),
            false => Administrator::for_owner("customer", "acme")
                .may_grant_scopes(["data.read", "data.write"])
                .may_grant_tiers(["free", "pro"]),
        };
        StoreFuture::ready(Some(admin))
    });
    let key = json!({"scopes": ["data.read", "data.write"], "tier": "pro"});
    let made = office.post("acme", "/keys", key.clone()).await;
    let id = made.body["key"]["id"].as_str().unwrap();
    let reduced = json!({"scopes": ["data.read"], "tier": "free"});
    // As long as the owner alone has set them, they are its own to change.
    assert_eq!(
        office.update("acme", id, reduced.clone()).await,
        StatusCode::OK
    );
    assert_eq!(office.update("acme", id, key.clone()).await, StatusCode::OK);
    assert_eq!(office.update("root", id, reduced).await, StatusCode::OK);
    for one in ["scopes", "tier"] {
        let status = office.update("acme", id, json!({one: key[one]})).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{one}");
    }
    assert_eq!(
        office.update("acme", id, json!({"scopes": []})).await,
        StatusCode::OK
    );
}

/// A tier that the service gave comes with the end that the key has then.
#[tokio::test]
async fn an_owner_does_not_extend_a_key_that_the_service_has_upgraded() {
    let office = Office::new();
    let now = office.keys.clock.wall().as_secs();
    let key = json!({"scopes": ["data.read"], "tier": "free", "expires_at": now + DAY});
    let made = office.post("acme", "/keys", key).await;
    let id = made.body["key"]["id"].as_str().unwrap();
    let longer = json!({"expires_at": now + 2 * DAY});
    assert_eq!(office.update("acme", id, longer).await, StatusCode::OK);
    let upgraded = json!({"tier": "enterprise"});
    assert_eq!(office.update("root", id, upgraded).await, StatusCode::OK);
    for extended in [json!(now + 3 * DAY), Value::Null] {
        let status = office
            .update("acme", id, json!({"expires_at": extended}))
            .await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{extended}");
    }
    let status = office.update("acme", id, json!({"tier": "free"})).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
}

#[derive(Clone, Debug, Default)]
struct Heard(Arc<std::sync::Mutex<Vec<AuditEvent>>>);

impl Auditor for Heard {
    fn audit(&self, event: &AuditEvent) {
        self.0.lock().unwrap().push(event.clone());
    }
}

impl Heard {
    /// Returns who did what since the last time.
    fn take(&self) -> Vec<(&'static str, Option<String>)> {
        let events = std::mem::take(&mut *self.0.lock().unwrap());
        let named = |event| {
            let AuditEvent::KeyChanged { action, by, .. } = event else {
                panic!("{event:?}");
            };
            let what = match action {
                KeyAction::Disabled => "disabled",
                KeyAction::Enabled => "enabled",
                KeyAction::Revoked => "revoked",
                KeyAction::Expired => "expired",
                KeyAction::Leaked => "leaked",
                other => panic!("{other:?}"),
            };
            (what, by)
        };
        let events = events.into_iter().map(named);
        events
            .map(|(what, by)| (what, by.map(|by| str::to_owned(&by))))
            .collect()
    }
}

/// A decision of the service is recorded and audited even if the owner had made it before.
#[tokio::test]
async fn a_later_decision_of_the_service_is_audited_and_one_of_the_owner_is_not() {
    let (clock, heard) = (ManualClock::default(), Heard::default());
    let ring = KeyRing::builder("acmepay", MemoryStore::new())
        .pepper(pepper())
        .clock(clock)
        .auditor(heard.clone())
        .build()
        .unwrap();
    let service = KeyManager::new(&ring).acting_as("root");
    let owner = KeyManager::new(&ring).acting_for_owner("customer");
    let key = service.create(NewKey::new("acme")).await.unwrap();
    heard.0.lock().unwrap().clear();
    let by = |name: &str| Some(name.to_owned());

    owner.disable(key.id(), "mine").await.unwrap();
    service.disable(key.id(), "abuse").await.unwrap();
    owner.disable(key.id(), "mine again").await.unwrap();
    service.disable(key.id(), "abuse again").await.unwrap();
    assert_eq!(
        heard.take(),
        [("disabled", by("customer")), ("disabled", by("root"))]
    );

    owner.expire(key.id()).await.unwrap();
    service.expire(key.id()).await.unwrap();
    assert_eq!(
        heard.take(),
        [("expired", by("customer")), ("expired", by("root"))]
    );

    owner.revoke(key.id(), "mine").await.unwrap();
    let revoked = service.revoke(key.id(), "abuse").await.unwrap();
    match revoked.state() {
        KeyState::Revoked(change) => {
            assert_eq!(change.by.as_deref(), Some("root"));
            assert_eq!(change.reason.as_deref(), Some("abuse"));
        }
        other => panic!("{other:?}"),
    }
    service.report_leaked(key.expose_secret()).await.unwrap();
    assert_eq!(
        heard.take(),
        [("revoked", by("customer")), ("revoked", by("root"))]
    );

    let leaked = service.create(NewKey::new("acme")).await.unwrap();
    owner.revoke(leaked.id(), "lost").await.unwrap();
    heard.0.lock().unwrap().clear();
    service.report_leaked(leaked.expose_secret()).await.unwrap();
    assert_eq!(heard.take(), [("leaked", by("root"))]);
}

#[tokio::test]
async fn a_manager_that_acts_for_the_owner_sets_no_allowances() {
    let keys = Keys::new();
    let key = keys.reader().await;
    let owner = keys.manager.acting_for_owner("customer");
    for update in [
        KeyUpdate::new().credits("9/day".parse::<portcullis::Allowance>().unwrap()),
        KeyUpdate::new().credits(None),
        KeyUpdate::new().limit(None),
        KeyUpdate::new().metadata("role", "admin"),
        KeyUpdate::new().metadata("role", None),
        KeyUpdate::new().tier(None),
    ] {
        let refused = owner.update(key.id(), update).await;
        assert!(matches!(refused, Err(KeyError::Forbidden)), "{refused:?}");
    }
    let named = owner.update(key.id(), KeyUpdate::new().name("ci")).await;
    assert_eq!(named.unwrap().name(), Some("ci"));
}

/// A stored record keeps the administrator who set a field.
#[tokio::test]
async fn the_services_decisions_hold_after_a_restart() {
    let store = MemoryStore::new();
    let office = Office::open(Keys::kept_in(store.clone()), |_: &Parts| {
        StoreFuture::ready(Some(Administrator::global("root")))
    });
    let (id, _) = office
        .create(json!({"owner": "acme", "scopes": ["data.read"]}))
        .await;
    let manager = office.keys.manager.acting_for_owner("customer");
    let now = office.keys.clock.wall();
    let update = KeyUpdate::new().expires_at(now + Duration::from_secs(DAY));
    let record = manager.update(id.parse().unwrap(), update).await.unwrap();
    let read = portcullis::api_key::record::KeyRecord::from_bytes(&record.to_bytes()).unwrap();
    let elsewhere = MemoryStore::new();
    portcullis::api_key::ApiKeyStore::create(&elsewhere, read.into())
        .await
        .unwrap();
    let keys = Keys::kept_in(elsewhere);
    let owner = keys.manager.acting_for_owner("customer");
    let lift = KeyUpdate::new().expires_at(None);
    owner.update(record.id(), lift.clone()).await.unwrap();
    keys.manager.expire(record.id()).await.unwrap();
    let lifted = owner.update(record.id(), lift).await;
    assert!(matches!(lifted, Err(KeyError::Forbidden)), "{lifted:?}");
}

#[tokio::test]
async fn owner_has_at_most_100_keys_by_default() {
    let office = Office::new();
    let mut made = Vec::new();
    for number in 0..100 {
        let reply = office.post("acme", "/keys", json!({})).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{number}");
        made.push(reply.body["key"]["id"].as_str().unwrap().to_owned());
    }
    for who in ["acme", "root"] {
        let reply = office.post(who, "/keys", json!({"owner": "acme"})).await;
        assert_eq!(
            (reply.status, problem(&reply)),
            (StatusCode::CONFLICT, "too-many-keys")
        );
        assert!(reply.body["detail"].is_string());
    }
    office.create(json!({"owner": "other"})).await;
    // A rotation replaces a key. A revoked or expired key no longer counts toward the maximum.
    assert_eq!(
        office.act("acme", &made[0], "rotate").await,
        StatusCode::CREATED
    );
    for action in ["revoke", "expire"] {
        assert_eq!(office.act("acme", &made[1], action).await, StatusCode::OK);
        made.remove(1);
        let reply = office.post("acme", "/keys", json!({})).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{action}");
        let reply = office.post("acme", "/keys", json!({})).await;
        assert_eq!(reply.status, StatusCode::CONFLICT, "{action}");
    }
    assert_eq!(office.status(&made[2]).await, "active");
}

#[tokio::test]
async fn the_maximum_of_keys_is_the_administrators_or_the_managers() {
    let keys = Keys::new();
    let manager = keys.manager.max_keys_per_owner(2);
    let router = admin::router(manager, |head: &Parts| {
        let admin = Administrator::for_owner("customer", "acme");
        let is_small = head
            .headers
            .get("x-i-am")
            .is_some_and(|name| name == "small");
        StoreFuture::ready(Some(if is_small {
            admin.max_keys_per_owner(1)
        } else {
            admin
        }))
    });
    let office = Office { keys, router };
    let create = async |who: &str| {
        let reply = office.ask(who, Method::POST, "/keys", json!({})).await;
        reply.status
    };
    assert_eq!(create("small").await, StatusCode::CREATED);
    assert_eq!(create("small").await, StatusCode::CONFLICT);
    assert_eq!(create("large").await, StatusCode::CREATED);
    assert_eq!(create("large").await, StatusCode::CONFLICT);
}
