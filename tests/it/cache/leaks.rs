//! The known ways in which caches leak and are poisoned: this one does in none of them.
//!
//! Each probe runs twice: against the cache, which must hold, and against a cache that is bad on
//! purpose, which must be caught.

use std::{
    collections::{BTreeSet, HashMap},
    convert::Infallible,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{AGE, HOST, SET_COOKIE},
};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use portcullis::{
    Allowance, BoxError, Identity, IdentityBuilder,
    api_key::{ApiKeyLayer, KeyManager, KeyRing, KeyUpdate, NewKey, Pepper},
    cache::CacheLayer,
    store::MemoryStore,
};
use tokio::{sync::mpsc, task::JoinSet};
use tower::{ServiceBuilder, ServiceExt, service_fn, util::BoxCloneService};

use super::cache::get_with;
use crate::support::{get, request};

pub(crate) type ClientResponse = Response<UnsyncBoxBody<Bytes, Infallible>>;
pub(crate) type Client = BoxCloneService<Request<Full<Bytes>>, ClientResponse, Infallible>;

/// Puts a cache around a handler.
pub(crate) type Cached = fn(Client) -> Client;

/// Proves that a probe holds for the cache, and that it catches the bad one.
pub(crate) async fn holds<F, Fut>(probe: F)
where
    F: Fn(Cached) -> Fut,
    Fut: Future<Output = bool>,
{
    assert!(probe(ours).await, "the cache leaks");
    assert!(
        !probe(bad).await,
        "the probe does not catch a cache that leaks"
    );
}

fn infallible<B>(body: B) -> UnsyncBoxBody<Bytes, Infallible>
where
    B: Body<Data = Bytes, Error = BoxError> + Send + 'static,
{
    body.map_err(|error| -> Infallible { panic!("{error}") })
        .boxed_unsync()
}

fn ours(handler: Client) -> Client {
    let service = ServiceBuilder::new()
        .map_response(|response: Response<_>| response.map(infallible))
        .layer(CacheLayer::new(MemoryStore::new()))
        .service(handler);
    BoxCloneService::new(service)
}

type Kept = HashMap<String, (StatusCode, HeaderMap, Bytes)>;

/// Stores every response under its path alone, and serves it to all clients.
fn bad(handler: Client) -> Client {
    let kept: Arc<Mutex<Kept>> = Arc::default();
    BoxCloneService::new(service_fn(move |request: Request<Full<Bytes>>| {
        let (handler, kept) = (handler.clone(), Arc::clone(&kept));
        async move {
            let path = request.uri().path().to_owned();
            let found = kept.lock().unwrap().get(&path).cloned();
            let (status, headers, body) = match found {
                Some(found) => found,
                None => {
                    let (parts, body) = handler.oneshot(request).await?.into_parts();
                    let body = body.collect().await?.to_bytes();
                    let mut headers = HeaderMap::new();
                    for (name, value) in &parts.headers {
                        headers.insert(name.clone(), value.clone());
                    }
                    let response = (parts.status, headers, body);
                    kept.lock().unwrap().insert(path, response.clone());
                    response
                }
            };
            if let Some(age) = headers.get(AGE) {
                let secs = age.to_str().unwrap().parse().unwrap();
                let _ = Instant::now() + Duration::from_secs(secs);
            }
            let mut response = Response::new(Full::new(body).boxed_unsync());
            *response.status_mut() = status;
            *response.headers_mut() = headers;
            Ok(response)
        }
    }))
}

/// Makes a handler that answers with these fields, and with a body that names the caller and
/// counts the calls.
pub(crate) fn handler(fields: &'static [(&'static str, &'static str)]) -> Client {
    let calls = Arc::new(AtomicUsize::new(0));
    responder(move |request| {
        let call = calls.fetch_add(1, Ordering::SeqCst);
        let named = ["authorization", "x-api-key", "cookie", "accept", "host"].map(|name| {
            let value = request.headers().get(name);
            value
                .map_or("-", |value| value.to_str().unwrap())
                .to_owned()
        });
        let body = match request.method() {
            &Method::HEAD => String::new(),
            method => format!("{method} {} #{call}", named.join(" ")),
        };
        with_fields(fields, body)
    })
}

pub(crate) fn responder(
    respond: impl Fn(&Request<Full<Bytes>>) -> Response<String> + Send + Sync + 'static,
) -> Client {
    let respond = Arc::new(respond);
    BoxCloneService::new(service_fn(move |request: Request<Full<Bytes>>| {
        let response = respond(&request).map(|body| Full::from(body).boxed_unsync());
        std::future::ready(Ok(response))
    }))
}

pub(crate) fn with_fields(
    fields: &[(&'static str, &'static str)],
    body: String,
) -> Response<String> {
    let mut response = Response::new(body);
    for (name, value) in fields {
        let value = HeaderValue::from_static(value);
        response.headers_mut().append(*name, value);
    }
    response
}

pub(crate) async fn body(client: &Client, request: Request<Full<Bytes>>) -> String {
    text(client.clone().oneshot(request).await.unwrap()).await
}

async fn text(response: ClientResponse) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Sends a request with the first fields, then one with the second ones, and returns `true` if the
/// responses differ.
async fn kept_apart(
    client: Client,
    first: &[(&'static str, &'static str)],
    second: &[(&'static str, &'static str)],
) -> bool {
    let one = body(&client, get_with("/a", first)).await;
    let two = body(&client, get_with("/a", second)).await;
    one != two
}

const FRESH: &[(&str, &str)] = &[("cache-control", "max-age=60")];

#[tokio::test]
async fn response_to_authorization_is_not_served_to_anonymous_clients() {
    for fields in [&[][..], FRESH] {
        let secret = &[("authorization", "Bearer secret")];
        holds(|cached| kept_apart(cached(handler(fields)), secret, &[])).await;
    }
}

#[tokio::test]
async fn response_to_an_api_key_is_not_served_to_anonymous_clients() {
    for fields in [&[][..], FRESH] {
        let secret = &[("x-api-key", "secret")];
        holds(|cached| kept_apart(cached(handler(fields)), secret, &[])).await;
    }
}

#[tokio::test]
async fn response_to_a_websocket_credential_is_not_served_to_anonymous_clients() {
    for fields in [&[][..], FRESH] {
        let secret = &[("sec-websocket-protocol", "acme.v1, acme.key.secret")];
        holds(|cached| kept_apart(cached(handler(fields)), secret, &[])).await;
    }
}

#[tokio::test]
async fn response_to_one_session_is_not_served_to_another() {
    for fields in [&[][..], FRESH] {
        let (one, two) = (&[("cookie", "s=1")], &[("cookie", "s=2")]);
        holds(|cached| kept_apart(cached(handler(fields)), one, two)).await;
    }
}

#[tokio::test]
async fn response_to_one_user_of_an_application_is_not_served_to_another() {
    // The application's key is known; another credential identifies its user.
    for name in ["authorization", "cookie", "x-api-key"] {
        let client = ours(handler(FRESH));
        let ask = |user: &'static str| {
            let mut request = get_with("/a", &[(name, user)]);
            let application = Identity::builder("application").build();
            request.extensions_mut().insert(application);
            body(&client, request)
        };
        let (alice, bob) = (ask("alice").await, ask("bob").await);
        assert_ne!(alice, bob, "{name}");
        assert_eq!([ask("alice").await, ask("bob").await], [alice, bob]);
    }
}

#[tokio::test]
async fn callers_that_differ_in_one_part_alone_share_nothing() {
    let alice = || Identity::builder("alice");
    let allowance = |text: &str| text.parse::<Allowance>().unwrap();
    let callers = [
        alice(),
        alice().owner("acme"),
        alice().owner("globex"),
        alice().lineage("first"),
        alice().tier("acme"),
        alice().scopes(["acme"]),
        alice().metadata("blocked", "yes"),
        alice().metadata("blocked", "no"),
        alice().metadata("blocked", "yes").metadata("a", "b"),
        alice().credits(allowance("1/day")),
        alice().limit(allowance("1/day")),
        alice().limit(allowance("1/month")),
    ]
    .map(IdentityBuilder::build);
    holds(|cached| {
        let callers = callers.clone();
        async move {
            let client = cached(responder(|request| {
                let caller = request.extensions().get::<Identity>().unwrap();
                let metadata = caller.metadata();
                let allowed = (caller.credits(), caller.limit());
                with_fields(FRESH, format!("{caller:?} {metadata:?} {allowed:?}"))
            }));
            let mut seen = BTreeSet::new();
            for caller in &callers {
                let mut request = get("/a");
                request.extensions_mut().insert(caller.clone());
                seen.insert(body(&client, request).await);
            }
            seen.len() == callers.len()
        }
    })
    .await;
}

#[tokio::test]
async fn change_of_a_key_in_any_part_is_seen_by_the_next_request() {
    let ring = KeyRing::builder("acmepay", MemoryStore::new())
        .pepper(Pepper::random(1))
        .build()
        .unwrap();
    let manager = KeyManager::new(&ring);
    let key = manager.create(NewKey::new("acme")).await.unwrap();
    let cached = ours(responder(|request| {
        let caller = request.extensions().get::<Identity>().unwrap();
        let tier = caller.tier();
        with_fields(
            FRESH,
            format!("{:?} {tier:?} {:?}", caller.metadata(), caller.credits()),
        )
    }));
    let keys = ApiKeyLayer::builder(&ring).build().unwrap();
    let app = ServiceBuilder::new()
        .map_response(|response: Response<_>| response.map(BodyExt::boxed_unsync))
        .layer(keys)
        .service(cached);
    let mut seen = BTreeSet::new();
    for update in [
        KeyUpdate::new(),
        KeyUpdate::new().metadata("blocked", "yes"),
        KeyUpdate::new().tier("pro"),
        KeyUpdate::new().credits("5/day".parse::<Allowance>().unwrap()),
    ] {
        manager.update(key.id(), update).await.unwrap();
        for _ in 0..2 {
            let mut request = get("/a");
            let secret = HeaderValue::from_str(key.expose_secret()).unwrap();
            request.headers_mut().insert("x-api-key", secret);
            seen.insert(text(app.clone().oneshot(request).await.unwrap()).await);
        }
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
}

#[tokio::test]
async fn a_cookie_that_was_set_for_one_client_is_not_set_for_another() {
    const SETS: &[(&str, &str)] = &[("set-cookie", "s=1")];
    const FRESH_SETS: &[(&str, &str)] = &[("set-cookie", "s=1"), ("cache-control", "max-age=60")];
    for fields in [SETS, FRESH_SETS] {
        holds(|cached| async move {
            let sets = AtomicUsize::new(0);
            let client = cached(responder(move |_| {
                match sets.fetch_add(1, Ordering::SeqCst) {
                    0 => with_fields(fields, "x".to_owned()),
                    _ => with_fields(FRESH, "x".to_owned()),
                }
            }));
            body(&client, get("/a")).await;
            let second = client.oneshot(get("/a")).await.unwrap();
            !second.headers().contains_key(SET_COOKIE)
        })
        .await;
    }
}

#[tokio::test]
async fn a_variant_is_for_those_alone_that_asked_for_it() {
    const FRESH_VARIES: &[(&str, &str)] = &[("vary", "accept"), ("cache-control", "max-age=60")];
    const PUBLIC_VARIES: &[(&str, &str)] = &[("vary", "accept"), ("cache-control", "public")];
    for fields in [FRESH_VARIES, PUBLIC_VARIES] {
        let (one, two) = (&[("accept", "a")], &[("accept", "b")]);
        holds(|cached| kept_apart(cached(handler(fields)), one, two)).await;
    }
}

#[tokio::test]
async fn head_leaves_no_empty_body_for_get() {
    holds(|cached| async move {
        let client = cached(handler(FRESH));
        body(&client, request(Method::HEAD, "/a")).await;
        !body(&client, get("/a")).await.is_empty()
    })
    .await;
}

#[tokio::test]
async fn unsafe_requests_always_reach_the_handler() {
    for method in [Method::POST, Method::DELETE] {
        holds(|cached| {
            let method = method.clone();
            async move {
                let client = cached(handler(FRESH));
                let first = body(&client, request(method.clone(), "/a")).await;
                first != body(&client, request(method, "/a")).await
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_refusal_of_one_is_not_for_another() {
    holds(|cached| async move {
        let client = cached(responder(|request| {
            let mut response = with_fields(FRESH, String::new());
            if !request.headers().contains_key("authorization") {
                *response.status_mut() = StatusCode::UNAUTHORIZED;
            }
            response
        }));
        body(&client, get("/a")).await;
        let valid = get_with("/a", &[("authorization", "Bearer valid")]);
        client.oneshot(valid).await.unwrap().status() == StatusCode::OK
    })
    .await;
}

#[tokio::test]
async fn an_error_that_a_field_provoked_is_not_for_all() {
    holds(|cached| async move {
        let client = cached(responder(|request| {
            let mut response = with_fields(FRESH, String::new());
            if request.headers().contains_key("x-meta") {
                *response.status_mut() = StatusCode::BAD_REQUEST;
            }
            response
        }));
        body(
            &client,
            get_with("/a", &[("x-meta", "beyond what the handler takes")]),
        )
        .await;
        client.oneshot(get("/a")).await.unwrap().status() == StatusCode::OK
    })
    .await;
}

#[tokio::test]
async fn responses_are_separate_per_host() {
    let (one, two) = (&[(HOST.as_str(), "one")], &[(HOST.as_str(), "two")]);
    holds(|cached| kept_apart(cached(handler(FRESH)), one, two)).await;
}

#[tokio::test]
async fn no_store_and_private_hold_in_any_case_and_position() {
    const NO_STORE: &[(&str, &str)] = &[("cache-control", "No-Store, max-age=60")];
    const PRIVATE: &[(&str, &str)] = &[("cache-control", "Private, max-age=60")];
    const SECOND: &[(&str, &str)] = &[
        ("cache-control", "max-age=60"),
        ("cache-control", "no-store"),
    ];
    const SPACED: &[(&str, &str)] = &[("cache-control", "max-age=60, private =\"x\"")];
    const OPEN: &[(&str, &str)] = &[("cache-control", "max-age=60, ext=\"a, private")];
    for fields in [NO_STORE, PRIVATE, SECOND, SPACED, OPEN] {
        holds(|cached| kept_apart(cached(handler(fields)), &[], &[])).await;
    }
}

#[tokio::test]
async fn an_age_beyond_all_numbers_does_no_harm() {
    const OLD: &[(&str, &str)] = &[
        ("cache-control", "max-age=60"),
        ("age", "18446744073709551615"),
    ];
    holds(|cached| async move {
        let asked = cached(handler(OLD)).oneshot(get("/a"));
        tokio::spawn(async move { asked.await.is_ok() })
            .await
            .is_ok()
    })
    .await;
}

#[tokio::test]
async fn repeated_fields_are_all_given_again() {
    const LINKS: &[(&str, &str)] = &[
        ("cache-control", "max-age=60"),
        ("link", "</a>"),
        ("link", "</b>"),
    ];
    holds(|cached| async move {
        let client = cached(handler(LINKS));
        body(&client, get("/a")).await;
        let again = client.oneshot(get("/a")).await.unwrap();
        again.headers().get_all("link").iter().count() == 2
    })
    .await;
}

#[tokio::test]
async fn forty_misses_at_once_are_one_call_of_the_handler() {
    holds(|cached| async move {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let client = cached(BoxCloneService::new(service_fn(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            async {
                tokio::task::yield_now().await;
                let response = with_fields(FRESH, "x".to_owned());
                Ok(response.map(|body| Full::from(body).boxed_unsync()))
            }
        })));
        let mut asking = JoinSet::new();
        for _ in 0..40 {
            let asked = client.clone().oneshot(get("/a"));
            asking.spawn(async move { text(asked.await.unwrap()).await });
        }
        asking.join_all().await;
        calls.load(Ordering::SeqCst) == 1
    })
    .await;
}

#[tokio::test]
async fn the_first_byte_does_not_wait_for_the_last() {
    holds(|cached| async move {
        let (send, receive) = mpsc::unbounded_channel();
        let receive = Arc::new(Mutex::new(Some(receive)));
        let client = cached(BoxCloneService::new(service_fn(move |_| {
            let sent = Sent(receive.lock().unwrap().take().unwrap());
            let mut response = Response::new(sent.boxed_unsync());
            let fresh = HeaderValue::from_static("max-age=60");
            response.headers_mut().insert("cache-control", fresh);
            std::future::ready(Ok(response))
        })));
        send.send(Bytes::from_static(b"first")).unwrap();
        // The handler never ends its body: a waiter for its end would wait forever.
        let first = async {
            let response = client.oneshot(get("/a")).await.unwrap();
            response.into_body().frame().await.unwrap().unwrap()
        };
        let mut first = Box::pin(first);
        let is_there = poll_fn(|cx| Poll::Ready(first.as_mut().poll(cx).is_ready())).await;
        drop(send);
        is_there
    })
    .await;
}

/// A body that comes as it is sent.
pub(crate) struct Sent(pub(crate) mpsc::UnboundedReceiver<Bytes>);

impl Body for Sent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let sent = self.0.poll_recv(cx);
        sent.map(|sent| sent.map(|bytes| Ok(Frame::data(bytes))))
    }
}
