//! The services inside the layers.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use axum::extract::Path;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, LAST_MODIFIED};
use http::{HeaderValue, Request, Response};
use serde::Serialize;
use tower::{Service, service_fn};

/// Returns a `service_fn` that responds with a few bytes of JSON.
pub fn origin()
-> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static {
    service_fn(respond)
}

/// Returns an axum `Router` with one route that responds with the same.
pub fn router() -> Router {
    Router::new().route("/v1/items/{id}", get(|| async { small() }))
}

fn respond(_: Request<Body>) -> Ready<Result<Response<Body>, Infallible>> {
    ready(Ok(small()))
}

fn small() -> Response<Body> {
    let mut response = Response::new(Body::from(Bytes::from_static(br#"{"ok":true}"#)));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An origin of cacheable responses, 1 KiB and four headers each, that counts its calls.
#[derive(Clone, Default)]
pub struct CachedOrigin {
    asked: Arc<AtomicU64>,
}

impl CachedOrigin {
    pub fn service(
        &self,
    ) -> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static {
        let asked = Arc::clone(&self.asked);
        service_fn(move |_| counted(Arc::clone(&asked)))
    }

    /// Returns the number of responses.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Returns the response.
    pub fn response() -> Response<Body> {
        let mut response = Response::new(Body::from(Bytes::from_static(&[b'x'; 1024])));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(
            CACHE_CONTROL,
            HeaderValue::from_static("public, max-age=3600"),
        );
        headers.insert(ETAG, HeaderValue::from_static("\"0123456789abcdef\""));
        headers.insert(
            LAST_MODIFIED,
            HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT"),
        );
        response
    }
}

/// Counts when it is polled, not when it is created, because one of the peers creates and drops
/// this future on a hit.
async fn counted(asked: Arc<AtomicU64>) -> Result<Response<Body>, Infallible> {
    asked.fetch_add(1, Ordering::Relaxed);
    Ok(CachedOrigin::response())
}

/// A handler that renders 1 KiB of JSON, storable or not.
#[derive(Clone, Default)]
pub struct JsonOrigin {
    asked: Arc<AtomicU64>,
    is_cacheable: bool,
}

impl JsonOrigin {
    pub fn cacheable() -> Self {
        Self {
            is_cacheable: true,
            ..Self::default()
        }
    }

    /// Returns a `Router` with the one route of [`router`].
    pub fn router(&self) -> Router {
        let origin = self.clone();
        let handler = move |Path(number): Path<u32>| {
            let response = origin.respond(number);
            async { response }
        };
        Router::new().route("/v1/items/{id}", get(handler))
    }

    /// Returns the number of responses.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    fn respond(&self, number: u32) -> Response<Body> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut response = Json(Order::numbered(number)).into_response();
        if self.is_cacheable {
            response.headers_mut().insert(
                CACHE_CONTROL,
                HeaderValue::from_static("public, max-age=3600"),
            );
        }
        response
    }
}

/// A record, as a handler would read it from a table.
#[derive(Serialize)]
struct Order {
    id: u32,
    status: &'static str,
    customer: String,
    items: Vec<Item>,
}

#[derive(Serialize)]
struct Item {
    sku: String,
    name: &'static str,
    quantity: u32,
    price_cents: u64,
    in_stock: bool,
}

impl Order {
    fn numbered(id: u32) -> Self {
        Self {
            id,
            status: "shipped",
            customer: format!("customer-{id:08}"),
            items: (0..10).map(|at| Item::for_order(id, at)).collect(),
        }
    }
}

impl Item {
    fn for_order(order: u32, at: u32) -> Self {
        Self {
            sku: format!("SKU-{order:06}-{at:02}"),
            name: "Bolt, hexagonal, M8",
            quantity: at + 1,
            price_cents: 1_299,
            in_stock: true,
        }
    }
}
