//! Key management over HTTP: permissions and responses.

use std::time::Duration;

use axum::{Router, body::Body};
use http::{Method, Request, StatusCode, request::Parts};
use portcullis::{
    Clock, Identity, ManualClock, StoreErrorKind, StoreFuture,
    api_key::{
        ApiKeyLayer, KeyManager, KeyRing, NewKey,
        admin::{self, Administrator, Authorizer},
    },
    store::MemoryStore,
};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::api_key::{Keys, ring};
use crate::support::{
    header,
    process::{Example, call},
    slow_store::SlowStore,
    strict::YieldOnce,
};

const HOUR: u64 = 3_600;

pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) body: Value,
}

/// An admin router over the keys of a ring, with its authorizer.
pub(crate) struct Office {
    pub(crate) keys: Keys,
    pub(crate) router: Router,
}

impl Office {
    /// The `x-i-am` header selects an administrator of everything or of acme's keys.
    pub(crate) fn new() -> Self {
        Self::over(Keys::new())
    }

    pub(crate) fn over(keys: Keys) -> Self {
        Self::open(keys, |head: &Parts| {
            let says = head.headers.get("x-i-am").map(|value| value.as_bytes());
            StoreFuture::ready(match says {
                Some(b"root") => Some(Administrator::global("root")),
                Some(b"acme") => Some(
                    Administrator::for_owner("customer", "acme")
                        .may_grant_scopes(["data.read"])
                        .may_grant_tiers(["free"]),
                ),
                _ => None,
            })
        })
    }

    pub(crate) fn open(keys: Keys, authorizer: impl Authorizer) -> Self {
        let router = admin::router(keys.manager.clone(), authorizer);
        Self { keys, router }
    }

    pub(crate) async fn ask(&self, who: &str, method: Method, path: &str, body: Value) -> Reply {
        let body = match body {
            Value::Null => Body::empty(),
            body => Body::from(body.to_string()),
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("x-i-am", who)
            .header("content-type", "application/json; charset=utf-8")
            .body(body)
            .unwrap();
        self.send(request).await
    }

    async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.unwrap();
        assert_eq!(
            header(response.headers(), "cache-control"),
            Some("no-store")
        );
        let status = response.status();
        let expected = if status.is_success() {
            "application/json"
        } else {
            "application/problem+json"
        };
        assert_eq!(header(response.headers(), "content-type"), Some(expected));
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await;
        let body = serde_json::from_slice(&bytes.unwrap()).unwrap();
        Reply { status, body }
    }

    pub(crate) async fn get(&self, who: &str, path: &str) -> Reply {
        self.ask(who, Method::GET, path, Value::Null).await
    }

    pub(crate) async fn post(&self, who: &str, path: &str, body: Value) -> Reply {
        self.ask(who, Method::POST, path, body).await
    }

    pub(crate) async fn patch(&self, who: &str, id: &str, body: Value) -> Reply {
        let path = format!("/keys/{id}");
        self.ask(who, Method::PATCH, &path, body).await
    }

    /// Makes a key as root, and returns its id and its secret.
    pub(crate) async fn create(&self, body: Value) -> (String, String) {
        let made = self.post("root", "/keys", body).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        (text(&made.body["key"]["id"]), text(&made.body["secret"]))
    }
}

pub(crate) fn problem(reply: &Reply) -> &str {
    let kind = reply.body["type"].as_str().unwrap();
    kind.strip_prefix("urn:problem-type:portcullis:").unwrap()
}

#[tokio::test]
async fn a_key_is_made_shown_changed_switched_off_and_on_rotated_and_ended() {
    let office = Office::new();
    let made = office
        .post(
            "root",
            "/keys",
            json!({
                "owner": "acme", "environment": "test", "name": "ci", "tier": "pro",
                "credits": "1000/day", "limit": "20/90s", "scopes": ["b", "a"],
                "expires_in_secs": HOUR, "metadata": {"team": "x"},
                "constraints": {"networks": ["10.0.0.0/8"], "methods": ["GET"],
                                "origins": ["https://app.example"]},
            }),
        )
        .await;
    assert_eq!(made.status, StatusCode::CREATED);
    let secret = made.body["secret"].as_str().unwrap();
    let key = &made.body["key"];
    let id = key["id"].as_str().unwrap();
    assert!(secret.starts_with(&format!("acmepay_test_{id}_")));
    let now = office.keys.clock.wall().as_secs();
    let expected = json!({
        "id": id, "display": format!("acmepay_test_{id}…"), "version": 1, "owner": "acme",
        "lineage": id, "environment": "test", "status": "active", "status_change": null,
        "created_at": now, "rotated_from": null, "rotated_to": null, "name": "ci",
        "tier": "pro", "credits": "1000/day", "limit": "20/90s", "scopes": ["a", "b"],
        "not_before": null, "expires_at": now + HOUR, "metadata": {"team": "x"},
        "constraints": {"networks": ["10.0.0.0/8"], "methods": ["GET"],
                        "origins": ["https://app.example"]},
    });
    assert_eq!(*key, expected);
    // The secret is in no other response.
    let shown = office.get("root", &format!("/keys/{id}")).await;
    assert_eq!(shown.body, json!({"key": expected}));

    let changed = office
        .patch(
            "root",
            id,
            json!({"version": 1, "name": null, "tier": "free", "credits": null, "limit": null,
                   "scopes": ["c"], "expires_at": null, "not_before": now,
                   "metadata": {"team": null, "note": "n"}, "constraints": null}),
        )
        .await;
    let key = &changed.body["key"];
    assert_eq!((&key["version"], &key["tier"]), (&json!(2), &json!("free")));
    assert_eq!(
        (&key["name"], &key["credits"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(
        (&key["expires_at"], &key["scopes"]),
        (&Value::Null, &json!(["c"]))
    );
    assert_eq!(key["metadata"], json!({"note": "n"}));
    assert_eq!(key["constraints"]["networks"], json!([]));

    let path = |action: &str| format!("/keys/{id}/{action}");
    let off = office
        .post("root", &path("disable"), json!({"reason": "abuse"}))
        .await;
    assert_eq!(off.body["key"]["status"], "disabled");
    let by = json!({"at": now, "by": "root", "reason": "abuse"});
    assert_eq!(off.body["key"]["status_change"], by);
    let on = office.post("root", &path("enable"), Value::Null).await;
    assert_eq!(on.body["key"]["status"], "active");

    let rotated = office
        .post("root", &path("rotate"), json!({"overlap_secs": HOUR}))
        .await;
    assert_eq!(rotated.status, StatusCode::CREATED);
    let heir = &rotated.body["key"];
    assert_eq!(
        (&heir["lineage"], &heir["rotated_from"]),
        (&json!(id), &json!(id))
    );
    assert_ne!(rotated.body["secret"], secret);
    let expired = office.post("root", &path("expire"), json!({})).await;
    assert_eq!(expired.body["key"]["status"], "expired");
    let revoked = office
        .post("root", &path("revoke"), json!({"reason": "done"}))
        .await;
    assert_eq!(revoked.body["key"]["status"], "revoked");
    let again = office.post("root", &path("enable"), Value::Null).await;
    assert_eq!(
        (again.status, problem(&again)),
        (StatusCode::CONFLICT, "key-ended")
    );
    let rotated = office.post("root", &path("rotate"), Value::Null).await;
    assert_eq!(problem(&rotated), "key-ended");
}

#[tokio::test]
async fn leaked_key_report_revokes_the_key_until_it_is_purged() {
    let office = Office::new();
    let (id, secret) = office.create(json!({"owner": "acme"})).await;
    let leaked = office.post("root", "/leaked", json!({"key": secret})).await;
    assert_eq!(leaked.body["key"]["id"], id);
    assert_eq!(leaked.body["key"]["status"], "revoked");
    for strange in [&secret[1..], "nonsense", &id] {
        let none = office
            .post("root", "/leaked", json!({"key": strange}))
            .await;
        assert_eq!(problem(&none), "no-such-key");
    }
    let purge = json!({"retention_secs": HOUR});
    let early = office.post("root", "/purge", purge.clone()).await;
    assert_eq!(early.body, json!({"purged": 0}));
    office.keys.clock.advance(Duration::from_secs(HOUR + 1));
    let late = office.post("root", "/purge", purge).await;
    assert_eq!(late.body, json!({"purged": 1}));
    let gone = office.get("root", &format!("/keys/{id}")).await;
    assert_eq!(
        (gone.status, problem(&gone)),
        (StatusCode::NOT_FOUND, "no-such-key")
    );
}

#[tokio::test]
async fn pages_hold_each_key_once_and_lists_can_be_of_an_owner_or_of_what_needs_a_look() {
    let office = Office::new();
    let mut made = Vec::new();
    for number in 0..7 {
        let owner = ["acme", "b & co"][number % 2];
        made.push(office.create(json!({"owner": owner})).await.0);
        office.keys.clock.advance(Duration::from_secs(1));
    }
    let ids = |reply: &Reply| -> Vec<String> {
        let keys = reply.body["keys"].as_array().unwrap();
        let id = |key: &Value| key["id"].as_str().unwrap().to_owned();
        keys.iter().map(id).collect()
    };
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let page = office.get("root", &format!("/keys?limit=3{after}")).await;
        found.extend(ids(&page));
        match page.body["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(found, made);
    let owned = office.get("root", "/keys?owner=b+%26%20co").await;
    assert_eq!(ids(&owned), [&*made[1], &made[3], &made[5]]);
    assert_eq!(owned.body["keys"][0]["uses"], 0);
    assert_eq!(owned.body["keys"][0]["last_used_at"], Value::Null);

    let (soon, _) = office
        .create(json!({"owner": "c", "expires_in_secs": 60}))
        .await;
    let ending = office.get("root", "/keys?expiring_within_secs=3600").await;
    assert_eq!(ids(&ending), [soon]);
    let now = office.keys.clock.wall().as_secs();
    let unused = office
        .get("root", &format!("/keys?unused_since={}", now - 5))
        .await;
    assert_eq!(ids(&unused), made[..2]);
    let outdated = office.get("root", "/keys?outdated_pepper=true").await;
    assert_eq!(ids(&outdated), [""; 0]);
    for wrong in [
        "/keys?unused_since=1&expiring_within_secs=1",
        "/keys?previous_pepper=maybe",
        "/keys?after=x",
        "/keys?after=1-x",
        "/keys?limit=-1",
        "/keys?owner=a&owner=b",
        "/keys?owner=%ff",
        "/keys?ownr=a",
    ] {
        let reply = office.get("root", wrong).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
}

#[tokio::test]
async fn an_update_for_an_old_version_is_a_conflict_and_without_one_is_refused() {
    let office = Office::new();
    let (id, _) = office.create(json!({"owner": "acme"})).await;
    let to = |version: u64| json!({"version": version, "tier": "pro"});
    assert_eq!(
        office.patch("root", &id, to(1)).await.status,
        StatusCode::OK
    );
    let stale = office.patch("root", &id, to(1)).await;
    assert_eq!(
        (stale.status, problem(&stale)),
        (StatusCode::CONFLICT, "key-changed")
    );
    let blind = office.patch("root", &id, json!({"tier": "pro"})).await;
    assert_eq!(blind.status, StatusCode::BAD_REQUEST);
}

/// Threat A12: who is not let in makes no key, whatever the path or the method.
#[tokio::test]
async fn unauthorized_requests_change_nothing() {
    let office = Office::new();
    let (id, secret) = office.create(json!({"owner": "acme"})).await;
    let before = office.keys.manager.get(id.parse().unwrap()).await.unwrap();
    for (method, path, body) in [
        (Method::POST, "/keys".to_owned(), json!({"owner": "evil"})),
        (Method::GET, "/keys".to_owned(), Value::Null),
        (Method::HEAD, "/keys".to_owned(), Value::Null),
        (Method::GET, format!("/keys/{id}"), Value::Null),
        (
            Method::PATCH,
            format!("/keys/{id}"),
            json!({"version": 1, "scopes": ["root"]}),
        ),
        (Method::POST, format!("/keys/{id}/disable"), Value::Null),
        (Method::POST, format!("/keys/{id}/enable"), Value::Null),
        (Method::POST, format!("/keys/{id}/revoke"), Value::Null),
        (Method::POST, format!("/keys/{id}/expire"), Value::Null),
        (Method::POST, format!("/keys/{id}/rotate"), Value::Null),
        (Method::POST, "/leaked".to_owned(), json!({"key": secret})),
        (
            Method::POST,
            "/purge".to_owned(),
            json!({"retention_secs": 0}),
        ),
    ] {
        let is_head = method == Method::HEAD;
        let request = Request::builder()
            .method(method)
            .uri(&path)
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .unwrap();
        if is_head {
            let response = office.router.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::FORBIDDEN);
            continue;
        }
        let reply = office.send(request).await;
        assert_eq!(
            (reply.status, problem(&reply)),
            (StatusCode::FORBIDDEN, "forbidden"),
            "{path}"
        );
    }
    let after = office.keys.manager.get(id.parse().unwrap()).await.unwrap();
    assert_eq!(after.to_bytes(), before.to_bytes());
    let all = office.get("root", "/keys").await;
    assert_eq!(all.body["keys"].as_array().unwrap().len(), 1);
}

/// Threat A12: an owner's administrator cannot raise any key, its own included, above its grants.
#[tokio::test]
async fn owner_administrator_cannot_exceed_its_grants() {
    let office = Office::new();
    let may = json!({"scopes": ["data.read"], "tier": "free", "name": "mine"});
    let made = office.post("acme", "/keys", may).await;
    assert_eq!(made.status, StatusCode::CREATED);
    assert_eq!(made.body["key"]["owner"], "acme");
    let own = made.body["key"]["id"].as_str().unwrap();
    for too_much in [
        json!({"owner": "evil"}),
        json!({"scopes": ["data.read", "root"]}),
        json!({"tier": "enterprise"}),
        json!({"credits": "1000000/day"}),
        json!({"limit": "1000000/second"}),
        json!({"metadata": {"role": "admin"}}),
    ] {
        let made = office.post("acme", "/keys", too_much.clone()).await;
        assert_eq!(made.status, StatusCode::FORBIDDEN, "{too_much}");
        let mut change = too_much.clone();
        change["version"] = json!(1);
        let changed = office.patch("acme", own, change).await;
        assert!(changed.status.is_client_error(), "{too_much}");
    }
    for takes_away in [
        json!({"tier": null}),
        json!({"credits": null}),
        json!({"limit": null}),
    ] {
        let mut change = takes_away.clone();
        change["version"] = json!(1);
        let changed = office.patch("acme", own, change).await;
        assert_eq!(changed.status, StatusCode::FORBIDDEN, "{takes_away}");
    }
    for (path, body) in [
        ("/leaked", json!({"key": "x"})),
        ("/purge", json!({"retention_secs": 0})),
    ] {
        assert_eq!(
            office.post("acme", path, body).await.status,
            StatusCode::FORBIDDEN
        );
    }
    let unchanged = office.get("acme", &format!("/keys/{own}")).await;
    assert_eq!(unchanged.body["key"]["version"], 1);
}

/// Threat A12: a key with more rights is switched off by its owner's people, and never handed out.
#[tokio::test]
async fn a_key_with_more_rights_than_an_administrator_may_grant_can_only_be_switched_off() {
    let office = Office::new();
    let (strong, _) = office
        .create(json!({"owner": "acme", "scopes": ["root"]}))
        .await;
    let path = |action: &str| format!("/keys/{strong}/{action}");
    for refused in ["rotate", "enable"] {
        let reply = office.post("acme", &path(refused), Value::Null).await;
        assert_eq!(reply.status, StatusCode::FORBIDDEN, "{refused}");
    }
    let changed = office
        .patch("acme", &strong, json!({"version": 1, "constraints": null}))
        .await;
    assert_eq!(changed.status, StatusCode::FORBIDDEN);
    for allowed in ["disable", "expire", "revoke"] {
        let reply = office.post("acme", &path(allowed), Value::Null).await;
        assert_eq!(reply.status, StatusCode::OK, "{allowed}");
    }
}

#[tokio::test]
async fn owner_cannot_enable_keys_that_the_service_disabled() {
    let office = Office::new();
    let (id, _) = office
        .create(json!({"owner": "acme", "scopes": ["data.read"]}))
        .await;
    let enable = format!("/keys/{id}/enable");
    let disable = format!("/keys/{id}/disable");
    office.post("root", &disable, Value::Null).await;
    let reply = office.post("acme", &enable, Value::Null).await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    office.post("root", &enable, Value::Null).await;
    office.post("acme", &disable, Value::Null).await;
    let reply = office.post("acme", &enable, Value::Null).await;
    assert_eq!(reply.status, StatusCode::OK);
}

#[tokio::test]
async fn another_owners_keys_are_not_there() {
    let office = Office::new();
    let (other, _) = office.create(json!({"owner": "other"})).await;
    let list = office.get("acme", "/keys").await;
    assert_eq!(list.body["keys"], json!([]));
    let asked = office.get("acme", "/keys?owner=other").await;
    assert_eq!(asked.status, StatusCode::FORBIDDEN);
    let mut replies = vec![office.get("acme", &format!("/keys/{other}")).await];
    for action in ["disable", "enable", "revoke", "expire", "rotate"] {
        let path = format!("/keys/{other}/{action}");
        replies.push(office.post("acme", &path, Value::Null).await);
    }
    replies.push(office.patch("acme", &other, json!({"version": 1})).await);
    // Neither is one that never was, by a single byte.
    let never = office.get("acme", "/keys/1AAAAAAAAAAAAAAA").await;
    for reply in replies {
        assert_eq!(
            (reply.status, &reply.body),
            (StatusCode::NOT_FOUND, &never.body)
        );
    }
}

/// Threat A12: no member is set that was not requested.
#[tokio::test]
async fn a_member_that_is_not_known_or_of_the_wrong_kind_is_refused() {
    let office = Office::new();
    let (id, _) = office.create(json!({"owner": "acme"})).await;
    for wrong in [
        json!({}),
        json!([]),
        json!({"owner": "acme", "is_admin": true}),
        json!({"owner": "acme", "lineage": id}),
        json!({"owner": "acme", "version": 7}),
        json!({"owner": 7}),
        json!({"owner": "acme", "scopes": "root"}),
        json!({"owner": "acme", "scopes": [7]}),
        json!({"owner": "acme", "credits": "many"}),
        json!({"owner": "acme", "expires_at": -1}),
        json!({"owner": "acme", "metadata": {"a": 1}}),
        json!({"owner": "acme", "metadata": []}),
        json!({"owner": "acme", "constraints": {"network": []}}),
        json!({"owner": "acme", "constraints": {"networks": ["everywhere"]}}),
    ] {
        let reply = office.post("root", "/keys", wrong.clone()).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
    let changed = office
        .patch("root", &id, json!({"version": 1, "owner": "evil"}))
        .await;
    assert_eq!(changed.status, StatusCode::BAD_REQUEST);
    let invalid = office.post("root", "/keys", json!({"owner": ""})).await;
    assert_eq!(
        (invalid.status, problem(&invalid)),
        (StatusCode::UNPROCESSABLE_ENTITY, "invalid-key")
    );
    assert_eq!(
        invalid.body["detail"],
        "`owner` must be 1 to 256 bytes long"
    );
}

#[tokio::test]
async fn a_form_of_another_sites_page_changes_nothing() {
    let office = Office::new();
    let (id, _) = office.create(json!({"owner": "acme"})).await;
    for content_type in [
        None,
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
        Some("application/jsonp"),
    ] {
        let mut request = Request::post(format!("/keys/{id}/revoke")).header("x-i-am", "root");
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let reply = office.send(request.body(Body::from("{}")).unwrap()).await;
        assert_eq!(
            reply.status,
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "{content_type:?}"
        );
    }
    let long = json!({"owner": "a".repeat(70_000)});
    let reply = office.post("root", "/keys", long).await;
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
}

/// Threats X1 and X4: an authorizer that panics or fails admits no caller.
#[tokio::test]
async fn panicking_or_failing_authorizer_rejects_requests() {
    let panics_later = |_: &Parts| {
        StoreFuture::pending(async {
            YieldOnce::new().await;
            panic!("as it was asked")
        })
    };
    let office = Office::open(Keys::new(), |_: &Parts| panic!("as it was asked"));
    assert_eq!(
        office.get("root", "/keys").await.status,
        StatusCode::INTERNAL_SERVER_ERROR
    );
    let office = Office::open(Keys::new(), panics_later);
    assert_eq!(
        office.get("root", "/keys").await.status,
        StatusCode::INTERNAL_SERVER_ERROR
    );
    let office = Office::open(Keys::new(), |_: &Parts| {
        StoreFuture::failed(StoreErrorKind::Timeout)
    });
    assert_eq!(
        office.get("root", "/keys").await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    let office = Office::open(Keys::new(), |_: &Parts| {
        StoreFuture::pending(async {
            YieldOnce::new().await;
            Ok(Some(Administrator::global("late")))
        })
    });
    assert_eq!(office.get("root", "/keys").await.status, StatusCode::OK);
}

#[tokio::test]
async fn keys_manage_keys_behind_the_layer_on_a_store_that_answers_later() {
    let clock = ManualClock::default();
    let ring: KeyRing = ring(SlowStore::over(MemoryStore::new()), &clock);
    let manager = KeyManager::new(&ring);
    let root = manager
        .create(NewKey::new("acme").scopes(["keys.manage"]))
        .await
        .unwrap();
    let by_scope = |head: &Parts| {
        let caller = head.extensions.get::<Identity>();
        let caller = caller.filter(|caller| caller.has_scope("keys.manage"));
        StoreFuture::ready(caller.map(|caller| Administrator::global(caller.key_id())))
    };
    let app = Router::new()
        .nest("/admin", admin::router(manager.clone(), by_scope))
        .layer(ApiKeyLayer::builder(&ring).build().unwrap());
    let create = async |key: &str| {
        let request = Request::post("/admin/keys")
            .header("authorization", format!("Bearer {key}"))
            .header("content-type", "application/json")
            .body(Body::from(r#"{"owner":"freya"}"#))
            .unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        let no_store = header(response.headers(), "cache-control") == Some("no-store");
        assert!(no_store);
        let status = response.status();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await;
        (
            status,
            serde_json::from_slice::<Value>(&bytes.unwrap()).unwrap(),
        )
    };
    let (status, made) = create(root.expose_secret()).await;
    assert_eq!(status, StatusCode::CREATED);
    let (status, _) = create(made["secret"].as_str().unwrap()).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let (status, _) = create("nonsense").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn the_example_is_managed_over_http() {
    let mut example = Example::start("key_admin");
    let (addr, root) = (example.addr(), example.said_after("root key: "));
    let with_key = |key: &str| {
        [
            ("x-api-key", key.to_owned()),
            ("content-type", "application/json".to_owned()),
        ]
    };
    let ask = async |method, path: &str, key: &str| {
        let headers = with_key(key);
        let headers = headers
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        call(addr, method, path, &headers).await
    };
    let listed = ask(Method::GET, "/admin/keys", &root).await;
    let listed: Value = serde_json::from_str(&listed.body).unwrap();
    let id = listed["keys"][0]["id"].as_str().unwrap();
    let rotate = format!("/admin/keys/{id}/rotate");
    let rotated = ask(Method::POST, &rotate, &root).await;
    assert_eq!(rotated.status, StatusCode::CREATED);
    let rotated: Value = serde_json::from_str(&rotated.body).unwrap();
    let heir = rotated["secret"].as_str().unwrap();
    assert_eq!(ask(Method::GET, "/", heir).await.status, StatusCode::OK);
    assert_eq!(
        ask(Method::GET, "/", &root).await.status,
        StatusCode::UNAUTHORIZED
    );
    assert!(example.interrupt().success());
    let secrets = [&root[30..], &heir[30..]];
    assert!(
        !example
            .stderr()
            .iter()
            .any(|line| secrets.iter().any(|key| line.contains(key)))
    );
}
