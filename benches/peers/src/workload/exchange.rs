//! One exchange as a server runs it: make the service ready, call it, drain the body.

use std::fmt::Debug;
use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response};
use tower::Service;

use super::origin::CachedOrigin;
use super::requests::Requests;
use crate::harness::Run;

/// Returns the work of a row: builds a request, calls `service`, and reads the response body.
///
/// Panics if the response is not successful, so that no row measures rejections.
pub fn drive<S, B>(mut service: S, mut requests: Requests) -> Run
where
    S: Service<Request<Body>, Response = Response<B>, Error: Debug> + 'static,
    B: http_body::Body,
{
    Box::new(move |iterations| {
        for _ in 0..iterations {
            exchange(&mut service, requests.next());
        }
    })
}

/// Returns the same work with a filled cache.
///
/// Panics if a batch reaches the origin, so that no row measures misses.
pub fn drive_hits<S, B>(mut service: S, origin: &CachedOrigin, requests: Requests) -> Run
where
    S: Service<Request<Body>, Response = Response<B>, Error: Debug> + 'static,
    B: http_body::Body,
{
    prime(&mut service, origin, requests.clone());
    let (origin, primed) = (origin.clone(), origin.asked());
    let mut run = drive(service, requests);
    Box::new(move |iterations| {
        run(iterations);
        assert_eq!(origin.asked(), primed, "a batch of hits reached the origin");
    })
}

/// Requests each target until the origin is not called. A cache may store in the background.
fn prime<S, B>(service: &mut S, origin: &CachedOrigin, mut requests: Requests)
where
    S: Service<Request<Body>, Response = Response<B>, Error: Debug>,
    B: http_body::Body,
{
    for _ in 0..requests.distinct() {
        let is_stored = (0..100_000).any(|attempt: u32| {
            let asked = origin.asked();
            exchange(service, requests.clone().next());
            let is_stored = origin.asked() == asked;
            if attempt >= 100 && !is_stored {
                // A cache that stores in the background needs a core.
                thread::sleep(Duration::from_micros(100));
            }
            is_stored
        });
        assert!(is_stored, "the cache stores nothing");
        requests.next();
    }
}

/// Sends one request, and reads the response body.
pub fn answered<S, B>(service: &mut S, request: Request<Body>)
where
    S: Service<Request<Body>, Response = Response<B>, Error: Debug>,
    B: http_body::Body,
{
    exchange(service, request);
}

fn exchange<S, B>(service: &mut S, request: Request<Body>)
where
    S: Service<Request<Body>, Response = Response<B>, Error: Debug>,
    B: http_body::Body,
{
    let mut context = Context::from_waker(Waker::noop());
    at_once(service.poll_ready(&mut context)).expect("no service of a row fails");
    let response = {
        let mut future = pin!(service.call(request));
        at_once(future.as_mut().poll(&mut context)).expect("no service of a row fails")
    };
    assert!(
        response.status().is_success(),
        "the response has status {}",
        response.status()
    );
    let (head, body) = response.into_parts();
    black_box(&head);
    drain(body, &mut context);
}

/// Reads a body as hyper does, without a poll after `is_end_stream`.
fn drain(body: impl http_body::Body, context: &mut Context<'_>) {
    let mut body = pin!(body);
    while !body.is_end_stream() {
        match at_once(body.as_mut().poll_frame(context)) {
            Some(frame) => drop(black_box(frame)),
            None => break,
        }
    }
}

fn at_once<T>(poll: Poll<T>) -> T {
    match poll {
        Poll::Ready(ready) => ready,
        Poll::Pending => panic!("a row in memory is always ready"),
    }
}
