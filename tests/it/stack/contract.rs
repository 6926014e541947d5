//! Tower's contract, held by every layer: readiness, errors, cancellation, bodies.

use std::{convert::Infallible, sync::atomic::Ordering};

use axum::body::Body as AxumBody;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use portcullis::{Gate, Identity, ManualClock, PeerAddr, store::MemoryStore};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::support::{
    process,
    slow_store::SlowStore,
    stack::Stack,
    strict::{Gone, NeverReady, Strict, poll_times},
    text,
};

/// Runs a check against each layer of a stack, against all of them in a gate, and against a gate of
/// none.
macro_rules! each_layer {
    ($stack:expr, |$layer:ident, $name:ident| $check:block) => {{
        let stack: &Stack = $stack;
        each_layer!(@one stack.access_log.clone(), "access log", $layer, $name, $check);
        each_layer!(@one stack.addresses.clone(), "limits by address", $layer, $name, $check);
        each_layer!(@one stack.api_keys.clone(), "api keys", $layer, $name, $check);
        each_layer!(@one stack.callers.clone(), "limits by caller", $layer, $name, $check);
        each_layer!(@one stack.cache.clone(), "cache", $layer, $name, $check);
        each_layer!(@one stack.gate(), "gate", $layer, $name, $check);
        each_layer!(@one Gate::new().build().unwrap(), "empty gate", $layer, $name, $check);
    }};
    (@one $value:expr, $called:literal, $layer:ident, $name:ident, $check:block) => {{
        let ($layer, $name) = ($value, $called);
        $check
    }};
}

/// A request that each layer has work with: it has a key, a peer and an identity.
fn request<B: Default>(stack: &Stack) -> Request<B> {
    let mut request = Request::new(B::default());
    *request.uri_mut() = "http://acme.test/data".parse().unwrap();
    let key = stack.key.parse().unwrap();
    request.headers_mut().insert("x-api-key", key);
    let peer = PeerAddr(([203, 0, 113, 9], 4711).into());
    request.extensions_mut().insert(peer);
    // For the layers that stand alone here, inside of authentication.
    let identity = Identity::builder("tested alone").build();
    request.extensions_mut().insert(identity);
    request
}

async fn stack() -> Stack {
    let clock = ManualClock::default();
    Stack::over(MemoryStore::with_clock(clock.clone()), clock).await
}

async fn slow_stack() -> Stack {
    let clock = ManualClock::default();
    Stack::over(
        SlowStore::over(MemoryStore::with_clock(clock.clone())),
        clock,
    )
    .await
}

#[tokio::test]
async fn no_layer_calls_a_clone_that_was_not_polled_ready() {
    for stack in [stack().await, slow_stack().await] {
        each_layer!(&stack, |layer, name| {
            for polls in [0, 1, 3] {
                let strict = Strict::new(polls, polls);
                let calls = strict.calls();
                let mut service = layer.layer(strict);
                for _ in 0..2 {
                    let request = request::<Full<Bytes>>(&stack);
                    let ready = ServiceExt::<Request<Full<Bytes>>>::ready(&mut service).await;
                    let response = ready.unwrap().call(request).await.unwrap();
                    assert_eq!(response.status(), 200, "{name}");
                    assert_eq!(text(response).await, "answer", "{name}");
                }
                assert!(calls.load(Ordering::SeqCst) >= 1, "{name}");
            }
        });
    }
}

#[tokio::test]
async fn an_error_of_readiness_passes_through_every_layer() {
    let stack = stack().await;
    each_layer!(&stack, |layer, name| {
        let service = layer.layer(NeverReady);
        let error = service
            .oneshot(request::<Full<Bytes>>(&stack))
            .await
            .map(drop);
        assert_eq!(error.unwrap_err(), Gone, "{name}");
    });
}

#[tokio::test]
async fn an_error_of_the_inner_service_passes_through_every_layer() {
    let stack = stack().await;
    let failing =
        service_fn(async |_: Request<Full<Bytes>>| Err::<Response<Full<Bytes>>, Gone>(Gone));
    each_layer!(&stack, |layer, name| {
        let error = layer
            .layer(failing)
            .oneshot(request(&stack))
            .await
            .map(drop);
        assert_eq!(error.unwrap_err(), Gone, "{name}");
    });
}

#[tokio::test]
async fn a_request_dropped_at_any_poll_leaves_nothing_half_done() {
    for stack in [stack().await, slow_stack().await] {
        each_layer!(&stack, |layer, name| {
            let strict = Strict::new(1, 2);
            let calls = strict.calls();
            let service = layer.layer(strict);
            // Enough polls for each wait of each layer; further ones change nothing.
            for polls in 0..24 {
                let before = calls.load(Ordering::SeqCst);
                let future = service.clone().oneshot(request::<Full<Bytes>>(&stack));
                drop(poll_times(future, polls));
                let called = calls.load(Ordering::SeqCst) - before;
                assert!(called <= 1, "{name} called the handler {called} times");
                // The next request is served after any drop.
                let next = service.clone().oneshot(request::<Full<Bytes>>(&stack));
                assert_eq!(
                    next.await.unwrap().status(),
                    200,
                    "{name} after {polls} polls"
                );
            }
        });
        assert_eq!(stack.access_log.stats().active(), 0);
    }
}

#[tokio::test]
async fn a_dropped_body_leaves_nothing_half_done() {
    let stack = stack().await;
    each_layer!(&stack, |layer, name| {
        let service = layer.layer(Strict::new(0, 0));
        for _ in 0..3 {
            let response = service
                .clone()
                .oneshot(request::<Full<Bytes>>(&stack))
                .await;
            assert_eq!(response.unwrap().status(), 200, "{name}");
        }
    });
    assert_eq!(stack.access_log.stats().active(), 0);
}

#[tokio::test]
async fn layers_and_services_can_be_cloned_sent_and_shared() {
    fn check<T: Clone + Send + Sync + 'static>(_: &T) {}
    fn check_send<T: Send>(_: &T) {}

    let stack = stack().await;
    each_layer!(&stack, |layer, _name| {
        check(&layer);
        let service = layer.layer(Strict::new(0, 0));
        check(&service);
        check_send(&service.oneshot(request::<Full<Bytes>>(&stack)));
    });
}

#[tokio::test]
async fn every_layer_works_in_an_axum_router() {
    let stack = stack().await;
    each_layer!(&stack, |layer, name| {
        let router = axum::Router::new()
            .route("/data", axum::routing::get("answer"))
            .layer(layer);
        let response = router.oneshot(request::<AxumBody>(&stack)).await.unwrap();
        assert_eq!(text(response).await, "answer", "{name}");
    });
}

#[tokio::test]
async fn every_layer_works_with_boxed_bodies() {
    let stack = stack().await;
    let boxed = service_fn(async |request: Request<BoxBody<Bytes, Infallible>>| {
        Ok::<_, Infallible>(Response::new(request.into_body()))
    });
    each_layer!(&stack, |layer, name| {
        // An unsafe method: the cache takes no body with a GET.
        let mut request = request::<Full<Bytes>>(&stack).map(|_| Full::from("echo").boxed());
        *request.method_mut() = http::Method::POST;
        let response = layer.layer(boxed).oneshot(request).await.unwrap();
        assert_eq!(text(response).await, "echo", "{name}");
    });
}

#[tokio::test]
async fn every_layer_works_with_what_hyper_receives() {
    let stack = stack().await;
    each_layer!(&stack, |layer, name| {
        let service = layer.layer(service_fn(echo));
        let (addr, server) = serve(service).await;
        let headers = [("x-api-key", stack.key.as_str())];
        let response = process::call(addr, http::Method::POST, "/data", &headers).await;
        assert_eq!(response.status, 200, "{name}");
        assert_eq!(response.body, "echo of 0 bytes", "{name}");
        server.abort();
    });
}

async fn echo<B>(request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let bytes = request.into_body().collect().await.unwrap().to_bytes();
    let text = format!("echo of {} bytes", bytes.len());
    Ok(Response::new(Full::from(text)))
}

/// Serves on hyper, without a framework, until it is aborted.
async fn serve<S, B>(service: S) -> (std::net::SocketAddr, tokio::task::JoinHandle<()>)
where
    S: Service<Request<hyper::body::Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<portcullis::BoxError>,
{
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            let service = service.clone().map_request(move |mut request: Request<_>| {
                request.extensions_mut().insert(PeerAddr(peer));
                request
            });
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(
                hyper_util::rt::TokioIo::new(stream),
                hyper_util::service::TowerToHyperService::new(service),
            );
            tokio::spawn(connection);
        }
    });
    (addr, server)
}
