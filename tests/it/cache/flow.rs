//! Requests past the store in the edge cases of the flow: bodies that panic, hang, never end or
//! send requests to the cache themselves, and responses that arrive out of order.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use portcullis::{
    cache::{CacheLayer, Purge, PurgeMode, body::InterruptedError},
    store::MemoryStore,
};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tower::{Layer, ServiceExt, service_fn};

use super::{
    cache::{get_with, response_with},
    leaks::Sent,
};
use crate::support::{
    get,
    hands::{Hands, let_all_run},
    origin::{Origin, Site, all},
    request,
};

type Fields = &'static [(&'static str, &'static str)];

const FRESH: Fields = &[("cache-control", "max-age=60")];

fn response(status: u16, fields: Fields, body: &'static str) -> Response<Full<Bytes>> {
    let mut response = response_with(fields, body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

fn open(respond: fn(usize) -> Response<Full<Bytes>>) -> Origin {
    let origin = Origin::new(move |_, call| Ok(respond(call)));
    origin.open();
    origin
}

/// A response whose body comes as it is sent.
fn streamed(control: &'static str) -> (UnboundedSender<Bytes>, Response<Sent>) {
    let (send, receive) = unbounded_channel();
    let mut response = Response::new(Sent(receive));
    let control = HeaderValue::from_static(control);
    response.headers_mut().insert("cache-control", control);
    (send, response)
}

/// Responds with these in their order, however the requests are.
fn in_order<B: Send + 'static>(
    responses: impl IntoIterator<Item = Response<B>>,
) -> impl Fn() -> Response<B> + Clone {
    let responses: VecDeque<_> = responses.into_iter().collect();
    let responses = Arc::new(Mutex::new(responses));
    move || responses.lock().unwrap().pop_front().unwrap()
}

#[tokio::test]
async fn a_leader_that_waits_for_its_body_is_woken_after_another_request_joins() {
    let (send, response) = streamed("max-age=60");
    let next = in_order([response]);
    let service =
        CacheLayer::new(MemoryStore::new()).layer(service_fn(move |_: Request<Full<Bytes>>| {
            std::future::ready(Ok::<_, Infallible>(next()))
        }));
    let ask = || {
        let asked = service.clone().oneshot(get("/a"));
        tokio::spawn(async { asked.await.unwrap().collect().await.unwrap().to_bytes() })
    };
    let leader = ask();
    let_all_run().await;
    let follower = ask();
    let_all_run().await;
    for piece in ["one half, ", "the other"] {
        send.send(Bytes::from(piece)).unwrap();
        let_all_run().await;
    }
    drop(send);
    let_all_run().await;
    assert!(leader.is_finished() && follower.is_finished());
    for asked in [leader, follower] {
        assert_eq!(asked.await.unwrap(), "one half, the other");
    }
}

/// A body that panics once `go_on` is signaled.
struct Panicking {
    pieces: VecDeque<Bytes>,
    go_on: tokio::sync::oneshot::Receiver<()>,
}

impl Body for Panicking {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(piece) = self.pieces.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match Pin::new(&mut self.go_on).poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(_) => panic!("the body panics"),
        }
    }
}

#[tokio::test]
async fn a_body_that_panics_while_others_wait_ends_its_client_too() {
    let (go_on, told) = tokio::sync::oneshot::channel();
    let mut first = Response::new(Panicking {
        pieces: [Bytes::from_static(b"half")].into(),
        go_on: told,
    });
    let fresh = HeaderValue::from_static("max-age=60");
    first.headers_mut().insert("cache-control", fresh);
    let next = in_order([first]);
    let service =
        CacheLayer::new(MemoryStore::new()).layer(service_fn(move |_: Request<Full<Bytes>>| {
            std::future::ready(Ok::<_, Infallible>(next()))
        }));
    let asked = service.clone().oneshot(get("/a"));
    let leader = tokio::spawn(async { asked.await.unwrap().collect().await.unwrap().to_bytes() });
    let_all_run().await;
    let asked = service.oneshot(get("/a"));
    let follower = tokio::spawn(async { asked.await.unwrap().collect().await.map(drop) });
    let_all_run().await;
    assert!(!leader.is_finished() && !follower.is_finished());
    go_on.send(()).unwrap();
    let_all_run().await;
    assert!(leader.is_finished(), "the leader's client hangs");
    assert!(leader.await.unwrap_err().is_panic());
    let error = follower.await.unwrap().unwrap_err();
    assert!(error.is::<InterruptedError>(), "{error}");
}

/// A body of a great many frames, each there at once.
struct Long {
    left: usize,
    polled: Arc<AtomicUsize>,
}

const LONG_FRAMES: usize = 100_000;

impl Body for Long {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.polled.fetch_add(1, Ordering::Relaxed);
        self.left = self.left.saturating_sub(1);
        let frame = (self.left > 0).then(|| Ok(Frame::data(Bytes::from_static(&[b'x'; 64]))));
        Poll::Ready(frame)
    }
}

fn long(fields: Fields, polled: &Arc<AtomicUsize>) -> Response<Long> {
    let mut response = Response::new(Long {
        left: LONG_FRAMES,
        polled: Arc::clone(polled),
    });
    for (name, value) in fields {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(*name, value);
    }
    response
}

#[tokio::test]
async fn a_body_that_is_too_large_is_not_read_to_its_end_on_behalf_of_a_condition() {
    let polled = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&polled);
    let layer = CacheLayer::secure(MemoryStore::new()).max_body_bytes(8 << 10);
    let service = layer
        .build()
        .unwrap()
        .layer(service_fn(move |_: Request<Full<Bytes>>| {
            std::future::ready(Ok::<_, Infallible>(long(FRESH, &count)))
        }));
    let asked = get_with("/a", &[("if-none-match", "\"a\"")]);
    let response = service.oneshot(asked).await.unwrap();
    assert_eq!(response.status(), 200);
    let polled = polled.load(Ordering::Relaxed);
    assert!(polled < 1_000, "{polled} frames were read");
}

#[tokio::test]
async fn a_refresh_does_not_read_a_body_that_is_not_stored() {
    let polled = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&polled);
    let hands = Hands::default();
    let calls = Arc::new(AtomicUsize::new(0));
    let layer = CacheLayer::secure(MemoryStore::with_clock(hands.clock.clone()))
        .clock(hands.clock.clone())
        .runtime(hands.clone())
        .max_body_bytes(LONG_FRAMES as u64 * 64);
    let service = layer
        .build()
        .unwrap()
        .layer(service_fn(move |_: Request<Full<Bytes>>| {
            let response = match calls.fetch_add(1, Ordering::SeqCst) {
                0 => {
                    let mut first = long(
                        &[("cache-control", "max-age=1, stale-while-revalidate=600")],
                        &Arc::default(),
                    );
                    first.body_mut().left = 2;
                    first
                }
                _ => long(&[("cache-control", "no-store")], &count),
            };
            std::future::ready(Ok::<_, Infallible>(response))
        }));
    for _ in 0..2 {
        let response = service.clone().oneshot(get("/a")).await.unwrap();
        response.collect().await.unwrap();
        hands.advance(Duration::from_secs(2)).await;
    }
    let polled = polled.load(Ordering::Relaxed);
    assert!(polled < 1_000, "{polled} frames were read");
}

/// A body that does something with its first frame.
struct Doing(Option<Box<dyn FnOnce() + Send>>);

impl Body for Doing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.0.take() {
            Some(does) => {
                does();
                cx.waker().wake_by_ref();
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"body")))))
            }
            None => Poll::Ready(None),
        }
    }
}

#[test]
fn a_body_may_ask_the_cache_for_its_own_url() {
    let (done, is_done) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        done.send(runtime.block_on(asked_within_the_body()))
            .unwrap();
    });
    let body = is_done.recv_timeout(Duration::from_secs(60));
    assert_eq!(body.expect("the cache locks itself out"), "body");
}

async fn asked_within_the_body() -> Bytes {
    type Ask = Box<dyn Fn() + Send>;
    let ask: Arc<Mutex<Option<Ask>>> = Arc::default();
    let inner = Arc::clone(&ask);
    let handler = service_fn(move |_: Request<Full<Bytes>>| {
        let ask = Arc::clone(&inner);
        let body = Doing(Some(Box::new(move || {
            if let Some(ask) = ask.lock().unwrap().take() {
                ask();
            }
        })));
        let mut response = Response::new(body);
        let fresh = HeaderValue::from_static("max-age=60");
        response.headers_mut().insert("cache-control", fresh);
        std::future::ready(Ok::<_, Infallible>(response))
    });
    // Nothing is read ahead of the client.
    let layer = CacheLayer::secure(MemoryStore::new()).max_finish_bytes(0);
    let service = layer.build().unwrap().layer(handler);
    let asked = service.clone();
    *ask.lock().unwrap() = Some(Box::new(move || {
        let mut call = Box::pin(asked.clone().oneshot(get("/a")));
        let _ = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    }));
    let response = service.oneshot(get("/a")).await.unwrap();
    response.collect().await.unwrap().to_bytes()
}

#[tokio::test]
async fn stale_while_revalidate_refreshes_without_collapsing() {
    const STALE: Fields = &[("cache-control", "max-age=1, stale-while-revalidate=600")];
    let origin = open(|call| response(200, STALE, if call == 1 { "old" } else { "new" }));
    let site = Site::secure(&origin, |builder| builder.max_waiters(0));
    site.send(get("/a")).await.unwrap();
    site.advance_secs(2).await;
    assert_eq!(site.send(get("/a")).await.unwrap().body, "old");
    let_all_run().await;
    assert_eq!(site.send(get("/a")).await.unwrap().body, "new");
    assert_eq!(origin.calls(), 2);
}

/// A request body of which the cache cannot make an empty one.
struct Own;

impl Body for Own {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn a_range_of_a_stale_response_needs_no_second_request() {
    let hands = Hands::default();
    let layer = CacheLayer::secure(MemoryStore::with_clock(hands.clock.clone()))
        .clock(hands.clock.clone())
        .runtime(hands.clone());
    let calls = Arc::new(AtomicUsize::new(0));
    let service = layer
        .build()
        .unwrap()
        .layer(service_fn(move |_: Request<Own>| {
            let response = match calls.fetch_add(1, Ordering::SeqCst) {
                0 => response_with(&[("cache-control", "max-age=1"), ("etag", "\"a\"")], "old"),
                _ => response_with(&[("cache-control", "no-store")], "new"),
            };
            std::future::ready(Ok::<_, Infallible>(response))
        }));
    let ask = |range: Option<&'static str>| {
        let mut request = Request::new(Own);
        *request.uri_mut() = "/a".parse().unwrap();
        if let Some(range) = range {
            let range = HeaderValue::from_static(range);
            request.headers_mut().insert("range", range);
        }
        let asked = service.clone().oneshot(request);
        async { asked.await.unwrap().collect().await.unwrap().to_bytes() }
    };
    assert_eq!(ask(None).await, "old");
    hands.advance(Duration::from_secs(2)).await;
    assert_eq!(ask(Some("bytes=0-0")).await, "new");
}

#[tokio::test]
async fn a_failure_is_no_reply_to_a_precondition() {
    const STALE: Fields = &[
        ("cache-control", "max-age=60, stale-if-error=600"),
        ("etag", "\"a\""),
    ];
    for (secs, condition) in [0, 61].into_iter().flat_map(|secs| {
        [
            (secs, ("if-match", "\"z\"")),
            (
                secs,
                ("if-unmodified-since", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ),
        ]
    }) {
        let origin = open(|call| match call {
            1 => response(200, STALE, "old"),
            _ => response(503, &[], "failed"),
        });
        let site = Site::secure(&origin, |builder| builder);
        site.send(get("/a")).await.unwrap();
        site.advance_secs(secs).await;
        let seen = site.send(get_with("/a", &[condition])).await.unwrap();
        assert_eq!((seen.status.as_u16(), &*seen.body), (503, "failed"));
    }
}

#[tokio::test]
async fn no_store_request_does_not_disable_collapsing() {
    let origin = open(|_| response(200, FRESH, "body"));
    let site = Site::rfc(&origin);
    let no_store = get_with("/a", &[("cache-control", "no-store")]);
    site.send(no_store).await.unwrap();
    origin.close();
    let started = site.start_all([get("/a"), get("/a"), get("/a")]).await;
    assert_eq!(origin.calls(), 2);
    origin.open();
    all(started).await;
    assert_eq!(origin.calls(), 2);
}

#[tokio::test]
async fn a_stored_response_ends_the_pause_after_failures() {
    const STALE: Fields = &[("cache-control", "max-age=1, stale-if-error=600")];
    let origin = open(|_| response(200, STALE, "old"));
    let site = Site::secure(&origin, |builder| builder);
    site.send(get("/a")).await.unwrap();
    origin.responds(|_, _| Ok(response(503, &[], "failed")));
    for secs in [3, 3, 5, 9, 18] {
        site.advance_secs(secs).await;
        assert_eq!(site.send(get("/a")).await.unwrap().body, "old");
    }
    let purge = [Purge::uri("/a".parse().unwrap())];
    site.purger.purge(purge, PurgeMode::Hard).await.unwrap();
    origin.responds(|_, _| Ok(response(200, STALE, "new")));
    assert_eq!(site.send(get("/a")).await.unwrap().body, "new");
    origin.responds(|_, _| Ok(response(200, STALE, "newer")));
    site.advance_secs(3).await;
    assert_eq!(site.send(get("/a")).await.unwrap().body, "newer");
}

#[tokio::test]
async fn a_conditional_request_for_a_changed_response_is_one_call() {
    for control in ["no-cache", "max-age=0"] {
        let origin = Origin::new(move |_, call| {
            let mut made = response(200, &[], ["", "one", "two", "three"][call]);
            let headers = made.headers_mut();
            headers.insert("cache-control", HeaderValue::from_static(control));
            let etag = HeaderValue::try_from(format!("\"{call}\"")).unwrap();
            headers.insert("etag", etag);
            Ok(made)
        });
        origin.open();
        let site = Site::secure(&origin, |builder| builder);
        for (call, body) in [(1, "one"), (2, "two")] {
            let asked = get_with("/a", &[("if-none-match", "\"client\"")]);
            let seen = site.send(asked).await.unwrap();
            assert_eq!((origin.calls(), &*seen.body), (call, body), "{control}");
        }
    }
}

#[tokio::test]
async fn a_304_for_another_version_before_a_failure_invalidates_the_stored_response() {
    for fails_with in [Ok(503), Err("gone")] {
        let origin = Origin::new(move |request, call| {
            const STALE: Fields = &[
                ("cache-control", "max-age=1, stale-if-error=600"),
                ("etag", "\"a\""),
            ];
            match (call, request.headers().contains_key("if-none-match")) {
                (1, _) => Ok(response(200, STALE, "old")),
                (_, true) => Ok(response(304, &[("etag", "\"b\"")], "")),
                (_, false) => fails_with.map(|status| response(status, &[], "failed")),
            }
        });
        origin.open();
        let site = Site::secure(&origin, |builder| builder);
        site.send(get("/a")).await.unwrap();
        site.advance_secs(2).await;
        let _ = site.send(get("/a")).await;
        for secs in [0, 3, 60] {
            site.advance_secs(secs).await;
            let seen = site.send(get("/a")).await;
            assert!(seen.is_err_and(|_| fails_with.is_err()) || fails_with.is_ok());
            let seen = site.send(get("/a")).await.map(|seen| seen.body);
            assert_ne!(seen.as_deref(), Ok("old"));
        }
    }
}

#[tokio::test]
async fn a_304_to_the_clients_own_condition_names_the_current_version() {
    const STALE: Fields = &[
        ("cache-control", "max-age=1, stale-if-error=600"),
        ("etag", "\"a\""),
    ];
    for (named, is_gone) in [("\"b\"", true), ("\"a\"", false), ("W/\"a\"", false)] {
        let origin = open(|_| response(200, STALE, "old"));
        let site = Site::secure(&origin, |builder| builder);
        site.send(get("/a")).await.unwrap();
        site.advance_secs(3).await;
        origin.responds(move |_, _| {
            let mut made = response(304, &[], "");
            let named = HeaderValue::from_static(named);
            made.headers_mut().insert("etag", named);
            Ok(made)
        });
        let mut head = request(Method::HEAD, "/a");
        let condition = HeaderValue::from_static(named);
        head.headers_mut().insert("if-none-match", condition);
        assert_eq!(site.send(head).await.unwrap().status, 304);
        origin.responds(|_, _| Ok(response(503, &[], "failed")));
        let body = site.send(get("/a")).await.unwrap().body;
        assert_eq!(body == "failed", is_gone, "{named}");
    }
}

#[tokio::test]
async fn an_older_response_that_ends_late_does_not_replace_a_newer_one() {
    for (control, is_stored) in [("max-age=60", true), ("no-store", false)] {
        let (late, older) = streamed("max-age=60");
        let (send, newer) = streamed(control);
        let (_, newest) = streamed("max-age=60");
        let next = in_order([older, newer, newest]);
        let layer = CacheLayer::secure(MemoryStore::new()).max_waiters(0);
        let service = layer
            .build()
            .unwrap()
            .layer(service_fn(move |_: Request<Full<Bytes>>| {
                std::future::ready(Ok::<_, Infallible>(next()))
            }));
        let ask = || service.clone().oneshot(get("/a"));
        let first = ask().await.unwrap();
        let second = ask().await.unwrap();
        send.send(Bytes::from_static(b"new")).unwrap();
        drop(send);
        assert_eq!(second.collect().await.unwrap().to_bytes(), "new");
        late.send(Bytes::from_static(b"old")).unwrap();
        drop(late);
        assert_eq!(first.collect().await.unwrap().to_bytes(), "old");
        let third = ask().await.unwrap().collect().await.unwrap().to_bytes();
        let expected = if is_stored { "new" } else { "" };
        assert!(
            third == expected || third.is_empty(),
            "{control}: {third:?}"
        );
    }
}

/// Final responses of the origin, none of which is stored for others.
const UNSTORED: &[(u16, Fields)] = &[
    (404, &[("cache-control", "no-store")]),
    (404, &[]),
    (410, &[]),
    (403, &[]),
    (200, &[("cache-control", "no-store")]),
    (200, &[("cache-control", "max-age=60"), ("vary", "*")]),
    (
        200,
        &[("cache-control", "max-age=60"), ("content-length", "999")],
    ),
];

#[tokio::test]
async fn a_final_response_invalidates_an_entry_stored_while_the_handler_was_asked() {
    const STALE: Fields = &[("cache-control", "max-age=1, stale-if-error=600")];
    const OLD: Fields = &[("cache-control", "max-age=60, stale-if-error=600")];
    let cases = UNSTORED.iter().flat_map(|last| [(last, 0), (last, 1)]);
    for ((status, fields), stored_before) in cases {
        let origin = Origin::new(move |_, call| {
            Ok(match call - stored_before {
                0 => response(200, STALE, "stale"),
                1 => response(*status, fields, "last"),
                2 => response(200, OLD, "old"),
                _ => response(503, &[], "failed"),
            })
        });
        let site = Site::secure(&origin, |builder| builder.max_waiters(0));
        if stored_before == 1 {
            origin.let_through(1);
            site.send(get("/a")).await.unwrap();
            site.advance_secs(2).await;
        }
        let overlapping = site.start_all([get("/a"), get("/a")]).await;
        for call in [2, 1] {
            origin.let_through_call(stored_before + call);
            let_all_run().await;
        }
        let bodies = all(overlapping).await.into_iter().map(|r| r.unwrap().body);
        assert_eq!(bodies.collect::<Vec<_>>(), ["last", "old"]);
        origin.open();
        let next = site.send(get("/a")).await.unwrap();
        assert_eq!(next.body, "failed", "{status} {fields:?} {stored_before}");
    }
}

#[tokio::test]
async fn a_final_response_invalidates_an_entry_confirmed_while_the_handler_was_asked() {
    const STALE: Fields = &[("cache-control", "no-cache"), ("etag", "\"a\"")];
    const CONFIRMED: Fields = &[("cache-control", "max-age=60"), ("etag", "\"a\"")];
    for (status, fields) in UNSTORED {
        let origin = Origin::new(move |_, call| {
            Ok(match call {
                1 => response(200, STALE, "old"),
                2 => response(*status, fields, "last"),
                3 => response(304, CONFIRMED, ""),
                _ => response(503, &[], "failed"),
            })
        });
        let site = Site::secure(&origin, |builder| builder.max_waiters(0));
        origin.let_through(1);
        site.send(get("/a")).await.unwrap();
        let overlapping = site.start_all([get("/a"), get("/a")]).await;
        for call in [3, 2] {
            origin.let_through_call(call);
            let_all_run().await;
        }
        all(overlapping).await;
        origin.open();
        let next = site.send(get("/a")).await.unwrap();
        assert_eq!(next.body, "failed", "{status} {fields:?}");
    }
}

#[tokio::test]
async fn a_final_response_leaves_other_variants_stored_while_the_handler_was_asked() {
    const VARIED: Fields = &[("cache-control", "max-age=60"), ("vary", "accept")];
    let origin = Origin::new(|_, call| {
        Ok(match call {
            1 => response(404, &[("cache-control", "no-store")], "none"),
            _ => response(200, VARIED, "b"),
        })
    });
    let site = Site::secure(&origin, |builder| builder.max_waiters(0));
    let asked = ["a", "b"].map(|accept| get_with("/a", &[("accept", accept)]));
    let overlapping = site.start_all(asked).await;
    for call in [2, 1] {
        origin.let_through_call(call);
        let_all_run().await;
    }
    all(overlapping).await;
    let stored = site.send(get_with("/a", &[("accept", "b")])).await;
    assert!(stored.unwrap().is_hit());
}

#[tokio::test]
async fn a_part_without_a_validator_invalidates_a_stale_response() {
    const STALE: Fields = &[("cache-control", "max-age=1, stale-if-error=600")];
    for complete in ["bytes 0-2/9", "bytes 0-2/3", "bytes 0-2/*"] {
        let origin = Origin::new(move |_, call| {
            let mut part = response(206, &[], "new");
            let complete = HeaderValue::from_static(complete);
            part.headers_mut().insert("content-range", complete);
            Ok(match call {
                1 => response(200, STALE, "old"),
                2 => part,
                _ => response(503, &[], "failed"),
            })
        });
        origin.open();
        let site = Site::secure(&origin, |builder| builder);
        site.send(get("/a")).await.unwrap();
        site.advance_secs(2).await;
        let range = || get_with("/a", &[("range", "bytes=0-2")]);
        assert_eq!(site.send(range()).await.unwrap().body, "new");
        for asked in [get("/a"), range()] {
            let next = site.send(asked).await.unwrap();
            assert_eq!(next.body, "failed", "{complete}");
        }
    }
}

#[tokio::test]
async fn a_part_of_another_length_invalidates_a_fresh_response() {
    for (complete, is_hit) in [("bytes 0-2/9", false), ("bytes 0-2/3", true)] {
        let origin = Origin::new(move |request, _| {
            let mut part = response(206, &[], "new");
            let complete = HeaderValue::from_static(complete);
            part.headers_mut().insert("content-range", complete);
            match request.headers().contains_key("range") {
                true => Ok(part),
                false => Ok(response(200, FRESH, "old")),
            }
        });
        origin.open();
        let site = Site::rfc(&origin);
        site.send(get("/a")).await.unwrap();
        let reload = [("range", "bytes=0-2"), ("cache-control", "no-cache")];
        assert_eq!(
            site.send(get_with("/a", &reload)).await.unwrap().body,
            "new"
        );
        let next = site.send(get("/a")).await.unwrap();
        assert_eq!(next.is_hit(), is_hit, "{complete}");
    }
}

#[tokio::test]
async fn a_final_response_replaces_a_stored_part() {
    for status in [404, 200] {
        let origin = Origin::new(move |_, call| {
            let part: Fields = &[
                ("cache-control", "max-age=60"),
                ("content-range", "bytes 0-2/9"),
                ("etag", "\"a\""),
            ];
            Ok(match call {
                1 => response(206, part, "old"),
                _ => response(status, &[("cache-control", "no-store")], "new"),
            })
        });
        origin.open();
        let site = Site::secure(&origin, |builder| builder.cache_partial_content(true));
        let part = |range| get_with("/a", &[("range", range)]);
        site.send(part("bytes=0-2")).await.unwrap();
        assert_eq!(site.send(part("bytes=0-2")).await.unwrap().body, "old");
        assert_eq!(site.send(part("bytes=4-6")).await.unwrap().body, "new");
        assert_eq!(site.send(part("bytes=0-2")).await.unwrap().body, "new");
    }
}

#[tokio::test]
async fn each_variant_is_one_call() {
    const VARIED: Fields = &[("cache-control", "max-age=1"), ("vary", "accept")];
    let origin = open(|_| response(200, VARIED, "body"));
    let site = Site::secure(&origin, |builder| builder);
    for round in 1..=2 {
        origin.close();
        let asked =
            (0..30).map(|number| get_with("/a", &[("accept", ["a", "b", "c"][number % 3])]));
        let started = site.start_all(asked).await;
        origin.open();
        assert!(all(started).await.iter().all(Result::is_ok));
        assert_eq!(origin.calls(), round * 3);
        site.advance_secs(2).await;
    }
}

#[tokio::test]
async fn an_older_version_is_not_sent_while_the_body_of_a_newer_one_is_read() {
    let hands = Hands::default();
    let (send, newer) = streamed("max-age=60");
    let (first, older) = streamed("max-age=1, stale-while-revalidate=600, stale-if-error=600");
    let next = in_order([older, newer]);
    let layer = CacheLayer::rfc(MemoryStore::with_clock(hands.clock.clone()))
        .clock(hands.clock.clone())
        .runtime(hands.clone());
    let service = layer
        .build()
        .unwrap()
        .layer(service_fn(move |_: Request<Full<Bytes>>| {
            std::future::ready(Ok::<_, Infallible>(next()))
        }));
    let ask = |request| service.clone().oneshot(request);
    first.send(Bytes::from_static(b"old")).unwrap();
    drop(first);
    let response = ask(get("/a")).await.unwrap();
    assert_eq!(response.collect().await.unwrap().to_bytes(), "old");
    hands.advance(Duration::from_secs(2)).await;
    let reload = get_with("/a", &[("cache-control", "no-cache")]);
    let newer = ask(reload).await.unwrap();
    let asked = ask(get("/a"));
    let later = tokio::spawn(async { asked.await.unwrap().collect().await.unwrap().to_bytes() });
    let_all_run().await;
    send.send(Bytes::from_static(b"new")).unwrap();
    drop(send);
    assert_eq!(later.await.unwrap(), "new");
    assert_eq!(newer.collect().await.unwrap().to_bytes(), "new");
}
