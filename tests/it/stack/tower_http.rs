//! tower-http's layers outside of ours and inside, in one `ServiceBuilder`.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use portcullis::{
    ManualClock, PeerAddr, ResponseBody,
    access_log::{
        CountRequestBodyLayer,
        body::{AccessLogBody, CountedBody},
    },
    cache::body::CacheBody,
    store::MemoryStore,
};
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_http::{
    catch_panic::CatchPanicLayer, compression::CompressionLayer, cors::CorsLayer,
    limit::RequestBodyLimitLayer, timeout::TimeoutLayer, trace::TraceLayer,
};

use crate::support::{get, header, stack::Stack};

fn timeout() -> TimeoutLayer {
    TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, Duration::from_secs(30))
}

fn with_key(stack: &Stack) -> Request<Full<Bytes>> {
    let mut request = get("http://acme.test/data");
    let headers = request.headers_mut();
    headers.insert("x-api-key", stack.key.parse().unwrap());
    headers.insert("origin", "https://app.acme.test".parse().unwrap());
    headers.insert("accept-encoding", "gzip".parse().unwrap());
    let peer = PeerAddr(([203, 0, 113, 9], 4711).into());
    request.extensions_mut().insert(peer);
    request
}

async fn stack() -> Stack {
    let clock = ManualClock::default();
    Stack::over(MemoryStore::with_clock(clock.clone()), clock).await
}

/// A response that gzip shortens.
fn long_body() -> Full<Bytes> {
    Full::from("portcullis ".repeat(100))
}

/// Stacks tower-http's layers around one of ours, and again inside of it.
macro_rules! wrapped {
    ($layer:expr, $handler:expr) => {
        ServiceBuilder::new()
            .layer(CatchPanicLayer::new())
            .layer(TraceLayer::new_for_http())
            .layer(CorsLayer::permissive())
            .layer(timeout())
            .layer(CompressionLayer::new())
            .layer($layer)
            .layer(RequestBodyLimitLayer::new(1_024))
            .layer(timeout())
            .layer(CorsLayer::permissive())
            .service(service_fn($handler))
    };
}

#[tokio::test]
async fn each_layer_composes_with_the_layers_of_tower_http() {
    let stack = stack().await;
    macro_rules! check {
        ($($name:literal: $layer:expr,)*) => {$({
            let service = wrapped!($layer, async |request: Request<_>| {
                drop(request);
                Ok::<_, Infallible>(Response::new(long_body()))
            });
            let mut request = with_key(&stack);
            let identity = portcullis::Identity::builder("tested alone").build();
            request.extensions_mut().insert(identity);
            let response = service.oneshot(request).await.unwrap();
            assert_eq!(response.status(), 200, $name);
            let headers = response.headers();
            assert_eq!(header(headers, "content-encoding"), Some("gzip"), $name);
            assert!(headers.contains_key("access-control-allow-origin"), $name);
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert!((1..1_100).contains(&body.len()), $name);
        })*};
    }
    check! {
        "access log": stack.access_log.clone(),
        "counted request bodies": CountRequestBodyLayer,
        "limits by address": stack.addresses.clone(),
        "API keys": stack.api_keys.clone(),
        "limits by caller": stack.callers.clone(),
        "cache": stack.cache.clone(),
        "gate": stack.gate(),
    }
}

#[tokio::test]
async fn cors_outside_answers_a_preflight_by_an_empty_body() {
    let stack = stack().await;
    let service = wrapped!(stack.gate(), async |_: Request<_>| {
        Ok::<_, Infallible>(Response::new(long_body()))
    });
    let mut preflight = get("http://acme.test/data");
    *preflight.method_mut() = http::Method::OPTIONS;
    let headers = preflight.headers_mut();
    headers.insert("origin", "https://app.acme.test".parse().unwrap());
    headers.insert("access-control-request-method", "GET".parse().unwrap());
    let response = service.oneshot(preflight).await.unwrap();
    assert_eq!(response.status(), 200);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(body.is_empty());
    assert!(stack.records.all().is_empty(), "the gate was not called");
}

/// A body without a default: each of ours has one.
#[derive(Debug)]
struct NoDefault(Full<Bytes>);

impl Body for NoDefault {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        std::pin::Pin::new(&mut self.0).poll_frame(cx)
    }
}

#[tokio::test]
async fn default_body_of_each_layer_is_empty() {
    async fn assert_empty<B: Body<Data = Bytes> + Default>()
    where
        B::Error: std::fmt::Debug,
    {
        let body = B::default();
        assert!(body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(0));
        assert!(body.collect().await.unwrap().to_bytes().is_empty());
    }
    assert_empty::<ResponseBody<NoDefault>>().await;
    assert_empty::<AccessLogBody<NoDefault>>().await;
    assert_empty::<CacheBody<NoDefault>>().await;
    assert_empty::<AccessLogBody<ResponseBody<CacheBody<NoDefault>>>>().await;
    assert_empty::<CountedBody<Full<Bytes>>>().await;
}
