//! Secrets in everything that manages and checks keys: none appears in any output.

use std::{
    fmt::{self, Debug, Write as _},
    io::{self, Write},
    sync::{Arc, Mutex},
};

use axum::{Router, body::Body};
use bytes::Bytes;
use http::{Method, Request, StatusCode, request::Parts};
use http_body_util::Full;
use metrics_exporter_prometheus::PrometheusBuilder;
use portcullis::{
    AuditEvent, Auditor, StoreErrorKind, StoreFuture,
    access_log::{
        AccessLogLayer, LogLevel,
        sinks::{JsonLines, Metrics, PrettyLines, TracingSink},
    },
    api_key::{
        ApiKeyLayer, Credential, KeyManager, KeyQuery, KeyRing, KeySource, KeyUpdate, NewKey,
        Pepper, RequireScopesLayer, StaticKeys, TagSecret, Verdict, Verifier,
        admin::{self, Administrator},
        import::{ImportedHash, ImportedKey, ImportedKeys},
    },
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tower::{Layer, ServiceExt, service_fn};
use tracing::{Event, Metadata, Subscriber, field::Visit, span};

use super::api_key::{handler, unknown_key, with_key};
use crate::support::{get, slow_store::SlowStore};

/// A key of a previous system, whose hash was imported.
const FORMER: &str = "sk_prod_9bX2Lh4TqYw7Rz1NfQ8c";
/// A key of a previous system that was not imported.
const STRANGE: &str = "sk_prod_J5mD0sKe3VuP6tGaW1oY";
const PEPPER: &[u8] = b"pepper:W3tJd9Qm5Zr1Xv8Kc2Hn6Bf4Lp0S";
const TAG: &[u8] = b"tagged:P7yLe0Ug4Os9Ia2Tk6Rj1Nw5Dz8V";
const STATIC: &str = "static-M6cVb8Xn3Za1Qw5Er7Ty9Ui2KpLo";

/// All output, from every source.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<String>>);

impl Paper {
    fn add(&self, shown: impl Debug) {
        writeln!(self.0.lock().unwrap(), "{shown:?} {shown:#?}").unwrap();
    }

    /// Fails if eight consecutive characters of a secret appear, in plain text or in hexadecimal.
    fn shows_nothing_of(&self, secrets: &[&str]) {
        let paper = self.0.lock().unwrap();
        for secret in secrets {
            let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
            for (spelled, piece_len) in [(*secret, 8), (&hex, 16)] {
                for at in 0..=spelled.len() - piece_len {
                    let piece = &spelled[at..at + piece_len];
                    if let Some(found) = paper.find(piece) {
                        let line = paper[..found].rfind('\n').map_or(0, |line| line + 1);
                        panic!("{piece} is shown: {}", &paper[line..found + piece.len()]);
                    }
                }
            }
        }
    }
}

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .unwrap()
            .push_str(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Auditor for Paper {
    fn audit(&self, event: &AuditEvent) {
        self.add(event);
    }
}

impl Debug for Paper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Paper")
    }
}

/// Records all `tracing` output, at every level and of every target.
impl Subscriber for Paper {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        attributes.record(&mut Fields(self));
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, record: &span::Record<'_>) {
        record.record(&mut Fields(self));
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut Fields(self));
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

struct Fields<'a>(&'a Paper);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn Debug) {
        self.0.add(format_args!("{} {value:?}", field.name()));
    }
}

/// Fails, and would like to say of what.
#[derive(Debug)]
struct Fails;

impl Verifier for Fails {
    fn verify(&self, credential: &Credential<'_>) -> StoreFuture<Verdict> {
        assert!(!format!("{credential:?}").contains("Lh4TqYw7"));
        StoreFuture::ready(Verdict::NotRecognized)
    }
}

fn hex(key: &str) -> String {
    Sha256::digest(key)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn ring(store: SlowStore, paper: &Paper) -> KeyRing {
    let pepper = Pepper::new(1, PEPPER).unwrap();
    let tag = TagSecret::new(TAG).unwrap();
    let foreign = ImportedKeys::by_sha256();
    paper.add((&pepper, &tag, &foreign));
    let builder = KeyRing::builder("acmepay", store)
        .pepper(pepper)
        .tag_secret(tag)
        .imported_keys(foreign)
        .seal_records()
        .count_uses()
        .auditor(paper.clone());
    paper.add(&builder);
    builder.build().unwrap()
}

/// Threat A17: no operation on keys and no failure exposes a secret.
#[test]
fn no_secret_is_in_any_debug_log_event_error_or_metric() {
    let paper = Paper::default();
    let recorder = PrometheusBuilder::new().build_recorder();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _told = tracing::subscriber::set_default(paper.clone());
    let made =
        metrics::with_local_recorder(&recorder, || runtime.block_on(all_that_happens(&paper)));
    paper.add(recorder.handle().render());
    let hash = hex(FORMER);
    let mut secrets = vec![FORMER, STRANGE, STATIC, &hash];
    secrets.extend([PEPPER, TAG].map(|secret| str::from_utf8(secret).unwrap()));
    // The names and the id of a key are public.
    secrets.extend(made.iter().map(|key| &key[key.len() - 49..]));
    paper.shows_nothing_of(&secrets);
    let shown = paper.0.lock().unwrap();
    for expected in [
        "action: Imported",
        "action: Leaked",
        "AuthDenied",
        "portcullis_auth_decisions",
    ] {
        assert!(shown.contains(expected), "{expected} is not reported");
    }
}

/// Makes, imports, changes, presents, reports and loses keys; returns those that were made.
async fn all_that_happens(paper: &Paper) -> Vec<String> {
    let store = SlowStore::default();
    let ring = ring(store.clone(), paper);
    let manager = KeyManager::new(&ring).acting_as("root");
    let log = AccessLogLayer::builder()
        .sink(JsonLines::direct(paper.clone()))
        .sink(PrettyLines::direct(paper.clone()))
        .sink(TracingSink)
        .span(LogLevel::Error)
        .observer(Metrics::new())
        .auditor(paper.clone())
        .build()
        .unwrap();
    let fixed = StaticKeys::new().key(STATIC, portcullis::Identity::builder("fixed").build());
    let sources = [
        KeySource::x_api_key(),
        KeySource::bearer(),
        KeySource::basic(),
        KeySource::scheme("Token").unwrap(),
        KeySource::bare_authorization(),
        KeySource::websocket_protocol("acme.key.").unwrap(),
        KeySource::cookie("key").unwrap(),
        KeySource::insecure_query_parameter("key").unwrap(),
    ];
    let layer = ApiKeyLayer::builder(&ring)
        .sources(sources)
        .verifier(fixed.unwrap())
        .verifier(Fails)
        .require_any_scope(["a"])
        .build()
        .unwrap();
    paper.add((
        &ring,
        &manager,
        &layer,
        &log,
        RequireScopesLayer::all(["a"]),
    ));

    let hash = ImportedHash::sha256(&hex(FORMER)).unwrap();
    let (new, foreign) = (NewKey::new("acme").scopes(["a"]), ImportedKey::new(hash));
    paper.add((&new, &foreign, ImportedHash::sha256(FORMER).unwrap_err()));
    paper.add(manager.import(new.clone(), foreign.clone()).await);
    paper.add(manager.import(new.clone(), foreign).await);
    let key = manager.create(new.clone()).await.unwrap();
    paper.add((&key, key.record().identity()));
    let secret = key.expose_secret().to_owned();
    let mut made = vec![secret.clone(), unknown_key().await];
    let rotated = manager
        .rotate(key.id(), std::time::Duration::from_secs(60))
        .await;
    paper.add(&rotated);
    made.push(rotated.unwrap().expose_secret().to_owned());

    let service = log.layer(layer.layer(service_fn(handler)));
    paper.add(&service);
    for down in [false, true] {
        store.is_down(down);
        for presented in [&secret, FORMER, STRANGE, STATIC, &made[1], &secret[..70]] {
            for request in everywhere(presented) {
                let response = service.clone().oneshot(request).await.unwrap();
                paper.add((response.status(), response.headers(), response.extensions()));
                paper.add(
                    response
                        .extensions()
                        .get::<portcullis::outcome::AuthOutcome>(),
                );
                paper.add(crate::support::text(response).await);
            }
        }
        paper.add(manager.list(KeyQuery::all()).await);
        paper.add(manager.get(key.id()).await);
        paper.add(
            manager
                .update(key.id(), KeyUpdate::new().tier(Some("pro")))
                .await,
        );
        paper.add(manager.report_leaked(&secret[..75]).await);
        paper.add(manager.create(new.clone()).await.map(|_| ()));
        paper.add(ring.flush().await);
        made.extend(managed_over_http(paper, &log, &manager, &made).await);
    }
    store.is_down(false);
    paper.add(manager.report_leaked(&secret).await);
    paper.add(manager.report_leaked(FORMER).await);
    paper.add(manager.purge(std::time::Duration::ZERO).await);
    made
}

/// Returns requests that carry this key in each place where a key is read, one at a time and twice.
fn everywhere(key: &str) -> Vec<Request<Full<Bytes>>> {
    let in_header = |name: &'static str, value: String| {
        let mut request = get("/");
        request.headers_mut().insert(name, value.parse().unwrap());
        request
    };
    let mut both = with_key(key);
    both.headers_mut()
        .insert("authorization", format!("Bearer {key}").parse().unwrap());
    vec![
        with_key(key),
        in_header("authorization", format!("Bearer {key}")),
        in_header("authorization", format!("Token {key}")),
        in_header("authorization", format!("Token key=\"{key}\"")),
        in_header("authorization", key.to_owned()),
        in_header(
            "sec-websocket-protocol",
            format!("acme.v1, acme.key.{key}, acme.v2"),
        ),
        in_header("sec-websocket-protocol", format!("acme.key.{key}")),
        in_header("cookie", format!("a=b; key={key}; c=d")),
        get(&format!("/?a=b&key={key}&c=d")),
        both,
    ]
}

/// Does over HTTP what can be done, rightly and wrongly; returns the keys that were made.
async fn managed_over_http(
    paper: &Paper,
    log: &AccessLogLayer,
    manager: &KeyManager,
    known: &[String],
) -> Vec<String> {
    let authorizer = |head: &Parts| match head.headers.get("x-i-am") {
        Some(_) => StoreFuture::ready(Some(Administrator::global("root"))),
        None => StoreFuture::failed(StoreErrorKind::Unavailable),
    };
    let router: Router = admin::router(manager.clone(), authorizer);
    let app = log.layer(router);
    let secret = &*known[0];
    let owned = json!({"owner": "acme", "scopes": ["a"]});
    let asked = [
        (Method::POST, "/keys".to_owned(), owned.clone()),
        (
            Method::POST,
            "/keys".to_owned(),
            json!({"owner": "acme", secret: 1}),
        ),
        (
            Method::POST,
            "/keys".to_owned(),
            json!({"owner": {"key": secret}}),
        ),
        (
            Method::POST,
            "/keys".to_owned(),
            json!({"owner": "acme", "credits": secret}),
        ),
        (Method::POST, "/keys".to_owned(), json!(secret)),
        (Method::GET, "/keys?limit=5".to_owned(), Value::Null),
        (Method::GET, format!("/keys?after={secret}"), Value::Null),
        (Method::POST, "/leaked".to_owned(), json!({"key": known[1]})),
        (Method::POST, "/leaked".to_owned(), json!({"key": STRANGE})),
        (
            Method::POST,
            "/leaked".to_owned(),
            json!({"key": &secret[..75]}),
        ),
        (Method::POST, "/leaked".to_owned(), json!({secret: secret})),
    ];
    let mut made = Vec::new();
    for (method, path, body) in asked {
        let request = Request::builder().method(method).uri(path);
        let request = request
            .header("content-type", "application/json")
            .header("x-i-am", "root");
        let request = request.header("authorization", format!("Bearer {secret}"));
        let body = if body.is_null() {
            Body::empty()
        } else {
            body.to_string().into()
        };
        let response = app
            .clone()
            .oneshot(request.body(body).unwrap())
            .await
            .unwrap();
        let status = response.status();
        paper.add((status, response.headers()));
        let bytes = axum::body::to_bytes(Body::new(response.into_body()), 1 << 20)
            .await
            .unwrap();
        let mut body: Value = serde_json::from_slice(&bytes).unwrap();
        // The only place that returns a new key.
        if let Some(Value::String(secret)) = body.as_object_mut().unwrap().remove("secret") {
            assert_eq!(status, StatusCode::CREATED);
            made.push(secret);
        }
        paper.add(body);
    }
    made
}
