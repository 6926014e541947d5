//! A lower bound: the minimal work of a cache hit, without checks; and the origin.

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use quick_cache::sync::Cache;
use tower::service_fn;

use crate::harness::Case;
use crate::workload::{CachedOrigin, Requests, drive};

pub fn cases() -> Vec<Case> {
    let cache = filled();
    let service = service_fn(move |request: Request<Body>| {
        let path = request.uri().path();
        let stored: Arc<Stored> = cache.get(path).expect("every target was stored");
        let mut response = Response::new(Body::from(stored.body.clone()));
        *response.headers_mut() = stored.headers.clone();
        ready(Ok::<_, Infallible>(response))
    });
    let origin = CachedOrigin::default().service();
    vec![
        Case::peer("cache/hit", "origin", drive(origin, Requests::anonymous())).whole(),
        Case::peer("cache/hit", "floor", drive(service, Requests::anonymous())).whole(),
    ]
}

struct Stored {
    headers: HeaderMap,
    body: Bytes,
}

fn filled() -> Cache<String, Arc<Stored>> {
    let cache = Cache::new(10_000);
    let headers = CachedOrigin::response().into_parts().0.headers;
    let stored = Arc::new(Stored {
        headers,
        body: Bytes::from_static(&[b'x'; 1024]),
    });
    let mut requests = Requests::anonymous();
    for _ in 0..requests.distinct() {
        cache.insert(requests.next().uri().path().to_owned(), Arc::clone(&stored));
    }
    cache
}
