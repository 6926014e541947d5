//! One record per request, regardless of the layer that responds or the party that cancels.

use std::{convert::Infallible, future::poll_fn, pin::pin, task::Poll, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use portcullis::{ManualClock, PeerAddr, api_key::RequireScopesLayer, store::MemoryStore};
use serde_json::Value;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::support::{request, stack::Stack, text};

async fn stack() -> Stack {
    let clock = ManualClock::default();
    Stack::over(MemoryStore::with_clock(clock.clone()), clock).await
}

fn by(key: &str, mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    let value = HeaderValue::from_str(&format!("Bearer {key}")).unwrap();
    request.headers_mut().insert(header::AUTHORIZATION, value);
    let peer = PeerAddr(([203, 0, 113, 9], 4711).into());
    request.extensions_mut().insert(peer);
    request
}

fn get(path: &str) -> Request<Full<Bytes>> {
    request(Method::GET, path)
}

/// Answers what a cache may keep, after a moment.
async fn respond(_: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, Infallible> {
    tokio::task::yield_now().await;
    let mut response = Response::new(Full::from("hello"));
    let headers = response.headers_mut();
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("private, max-age=60"),
    );
    headers.insert(header::ETAG, HeaderValue::from_static("\"v1\""));
    Ok(response)
}

/// Returns the one record since the last call.
fn record(stack: &Stack) -> Value {
    let all = stack.records.all();
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(stack.access_log.stats().active(), 0);
    stack.records.clear();
    assert!(!all[0].contains(&stack.key), "{all:?}");
    serde_json::from_str(&all[0]).unwrap()
}

#[tokio::test]
async fn each_layer_response_leaves_one_record_with_its_outcome() {
    let stack = stack().await;
    let scoped = RequireScopesLayer::all(["data.write"]).unwrap();
    let app = stack.gate().layer(service_fn(respond));
    let forbidden = stack.gate().layer(scoped.layer(service_fn(respond)));
    let ask = async |request| text(app.clone().oneshot(request).await.unwrap()).await;

    ask(by("not a key", get("/"))).await;
    let unknown = record(&stack);
    assert_eq!(unknown["http.response.status_code"], 401);
    assert_eq!(unknown["portcullis.auth.outcome"], "denied");
    assert_eq!(unknown["portcullis.auth.reason"], "malformed");
    assert_eq!(unknown["severity_text"], "WARN");
    assert!(unknown["http.response.body.size"].as_u64().unwrap() > 0);

    ask(by(&stack.key, get("/"))).await;
    let miss = record(&stack);
    assert_eq!(miss["portcullis.auth.outcome"], "allowed");
    assert_eq!(miss["portcullis.cache.outcome"], "miss");
    assert_eq!(miss["portcullis.rate_limit.outcome"], "allowed");
    assert_eq!(miss["http.response.body.size"], 5);

    ask(by(&stack.key, get("/"))).await;
    let hit = record(&stack);
    assert_eq!(hit["portcullis.cache.outcome"], "hit");
    assert_eq!(hit["http.response.body.size"], 5);

    let mut conditional = by(&stack.key, get("/"));
    let etag = HeaderValue::from_static("\"v1\"");
    conditional
        .headers_mut()
        .insert(header::IF_NONE_MATCH, etag);
    ask(conditional).await;
    let not_modified = record(&stack);
    assert_eq!(not_modified["http.response.status_code"], 304);
    assert_eq!(not_modified["portcullis.outcome"], "completed");
    assert_eq!(not_modified["http.response.body.size"], 0);

    ask(by(&stack.key, request(Method::HEAD, "/"))).await;
    let head = record(&stack);
    assert_eq!(head["portcullis.outcome"], "completed");
    assert_eq!(head["http.response.body.size"], 0);

    let lacking = by(&stack.key, request(Method::POST, "/"));
    text(forbidden.oneshot(lacking).await.unwrap()).await;
    let forbidden = record(&stack);
    assert_eq!(forbidden["http.response.status_code"], 403);
    assert_eq!(forbidden["portcullis.auth.reason"], "missing_scope");
    assert_eq!(
        forbidden["portcullis.auth.key_id"],
        miss["portcullis.auth.key_id"]
    );

    loop {
        ask(by(&stack.key, get("/"))).await;
        let limited = record(&stack);
        if limited["http.response.status_code"] == 429 {
            assert_eq!(limited["portcullis.rate_limit.outcome"], "limited");
            assert_eq!(limited["portcullis.rate_limit.remaining"], 0);
            assert!(
                limited["portcullis.rate_limit.retry_after"]
                    .as_f64()
                    .unwrap()
                    > 0.0
            );
            assert_eq!(limited["severity_text"], "INFO");
            break;
        }
    }
}

#[tokio::test]
async fn request_dropped_at_any_poll_leaves_one_record_and_none_active() {
    for polls in 0.. {
        let stack = stack().await;
        let mut app = stack.gate().layer(service_fn(respond));
        let call = app.ready().await.unwrap().call(by(&stack.key, get("/")));
        let ready = {
            let mut call = pin!(call);
            let mut ready = None;
            for _ in 0..polls {
                let poll = poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await;
                if let Poll::Ready(response) = poll {
                    ready = Some(response.unwrap());
                    break;
                }
            }
            ready
        };
        let Some(response) = ready else {
            assert_eq!(
                record(&stack)["portcullis.outcome"],
                "dropped",
                "{polls} polls"
            );
            continue;
        };
        assert_eq!(response.status(), StatusCode::OK);
        drop(response);
        assert_eq!(record(&stack)["portcullis.outcome"], "body_dropped");
        return;
    }
}

#[tokio::test]
async fn a_timeout_outside_drops_the_request_and_one_inside_answers_it() {
    let stack = stack().await;
    let never = service_fn(async |_: Request<Full<Bytes>>| {
        std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>().await
    });
    let app = stack.access_log.layer(never);
    let outside = tokio::time::timeout(Duration::ZERO, app.oneshot(get("/"))).await;
    assert!(outside.is_err());
    let dropped = record(&stack);
    assert_eq!(dropped["portcullis.outcome"], "dropped");
    assert!(dropped.get("http.response.status_code").is_none());

    let inside = service_fn(async |_: Request<Full<Bytes>>| {
        let patience = Duration::ZERO;
        let result = tokio::time::timeout(patience, std::future::pending::<()>()).await;
        assert!(result.is_err());
        let mut response = Response::new(Full::<Bytes>::default());
        *response.status_mut() = StatusCode::GATEWAY_TIMEOUT;
        Ok::<_, Infallible>(response)
    });
    stack
        .access_log
        .layer(inside)
        .oneshot(get("/"))
        .await
        .unwrap();
    let answered = record(&stack);
    assert_eq!(answered["portcullis.outcome"], "completed");
    assert_eq!(answered["http.response.status_code"], 504);
    assert_eq!(answered["error.type"], "504");
}
