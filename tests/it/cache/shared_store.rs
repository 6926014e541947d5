//! Caches of several processes over one store, and over one that does not reply.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use portcullis::{
    cache::{CacheLayer, CacheLayerBuilder},
    store::MemoryStore,
};
use tokio::sync::mpsc;
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{
    get,
    hands::{Hands, let_all_run},
    processes::{FRESH, Process, Shared},
    request, text,
};

/// The longest time between two looks of one who waits for another process.
const PAUSE: Duration = Duration::from_millis(160);

#[tokio::test]
async fn one_process_fills_the_entry_and_others_wait() {
    let hands = Hands::default();
    let store = Shared::over(&hands);
    let (one, two) = (Process::new(&hands, &store), Process::new(&hands, &store));
    let first = one.asks();
    let_all_run().await;
    let second = two.asks();
    hands.advance(PAUSE).await;
    assert_eq!((one.calls(), two.calls()), (1, 0));
    one.open();
    let_all_run().await;
    assert_eq!(store.holder(), None);
    hands.advance(PAUSE).await;
    assert_eq!(first.await.unwrap().1, "call 1");
    let (status, body) = second.await.unwrap();
    assert_eq!(body, "call 1");
    assert!(
        status.starts_with("portcullis; fwd=uri-miss; collapsed"),
        "{status}"
    );
    assert_eq!((one.calls(), two.calls()), (1, 0));
}

#[tokio::test]
async fn process_waits_at_most_max_wait() {
    let hands = Hands::default();
    let store = Shared::over(&hands);
    let (one, two) = (Process::new(&hands, &store), Process::new(&hands, &store));
    let first = one.asks();
    let_all_run().await;
    two.open();
    let second = two.asks();
    for _ in 0..30 {
        hands.advance(PAUSE).await;
    }
    assert_eq!(two.calls(), 0);
    for _ in 0..10 {
        hands.advance(PAUSE).await;
    }
    assert_eq!(
        (second.await.unwrap().1.as_str(), two.calls()),
        ("call 1", 1)
    );
    first.abort();
    let_all_run().await;
    assert_eq!(store.holder(), None);
}

#[tokio::test]
async fn canceled_leader_releases_its_lease_to_another_process() {
    let hands = Hands::default();
    let store = Shared::over(&hands);
    let (one, two) = (Process::new(&hands, &store), Process::new(&hands, &store));
    let first = one.asks();
    let_all_run().await;
    two.open();
    let second = two.asks();
    let_all_run().await;
    first.abort();
    hands.advance(PAUSE).await;
    assert_eq!(
        (second.await.unwrap().1.as_str(), two.calls()),
        ("call 1", 1)
    );
    assert_eq!(store.holder(), None);
}

#[tokio::test]
async fn lease_that_arrives_after_cancellation_is_released() {
    let hands = Hands::default();
    let store = Shared::over(&hands);
    let one = Process::new(&hands, &store);
    // The store answers the look-up, and not yet the question for the lease.
    store.is_late.store(true, Ordering::SeqCst);
    let asked = one.asks();
    let_all_run().await;
    store.may_reply.add_permits(1);
    let_all_run().await;
    asked.abort();
    let_all_run().await;
    store.is_late.store(false, Ordering::SeqCst);
    store.may_reply.add_permits(1);
    let_all_run().await;
    let leases = store.leases.lock().unwrap();
    assert_eq!((leases.given, leases.holder), (1, None));
}

#[tokio::test]
async fn unsafe_request_invalidates_even_if_its_client_disconnects() {
    let hands = Hands::default();
    let store = Shared::over(&hands);
    let one = Process::new(&hands, &store);
    one.open();
    assert_eq!(one.asks().await.unwrap().1, "call 1");
    for goes_away in [true, false] {
        let kept = one.asks().await.unwrap().1;
        store.is_late.store(true, Ordering::SeqCst);
        let changing = one.sends(request(http::Method::PUT, "/a"));
        let_all_run().await;
        match goes_away {
            true => changing.abort(),
            false => {
                hands.advance(Duration::from_millis(25)).await;
                changing.await.unwrap();
            }
        }
        let_all_run().await;
        store.is_late.store(false, Ordering::SeqCst);
        store.may_reply.add_permits(1);
        let_all_run().await;
        assert_ne!(one.asks().await.unwrap().1, kept);
    }
}

#[tokio::test]
async fn unstorable_response_releases_its_lease_immediately() {
    let hands = Hands::default();
    let store = Shared::over(&hands);
    let fields = &[("cache-control", "no-store")];
    let one = Process::configured(&hands, &store, fields, |builder| builder);
    one.open();
    let response = one.sends(get("/a")).await.unwrap();
    assert_eq!(store.holder(), None);
    drop(response);
}

#[tokio::test]
async fn a_store_that_does_not_answer_in_time_has_nothing() {
    let hands = Hands::default();
    let store = Shared::over(&hands);
    let one = Process::new(&hands, &store);
    one.open();
    store.hangs.store(true, Ordering::SeqCst);
    let asked = one.asks();
    let_all_run().await;
    hands.advance(Duration::from_millis(24)).await;
    assert_eq!(one.calls(), 0);
    hands.advance(Duration::from_millis(1)).await;
    let (status, body) = asked.await.unwrap();
    assert_eq!(body, "call 1");
    assert_eq!(status, "portcullis; fwd=uri-miss; detail=store");
}

#[tokio::test]
async fn a_store_that_does_not_answer_holds_up_no_change() {
    let hands = Hands::default();
    let store = Shared::over(&hands);
    let one = Process::configured(&hands, &store, FRESH, |builder| {
        builder.store_timeout(Duration::from_millis(7))
    });
    one.open();
    store.hangs.store(true, Ordering::SeqCst);
    let changed = one.sends(request(http::Method::PUT, "/a"));
    let_all_run().await;
    hands.advance(Duration::from_millis(7)).await;
    assert_eq!(text(changed.await.unwrap()).await, "call 1");
}

#[tokio::test]
async fn hanging_put_delays_waiters_at_most_max_wait() {
    let hands = Hands::default();
    let store = Shared::over(&hands);
    let one = Process::new(&hands, &store);
    let first = one.asks();
    let_all_run().await;
    let second = one.asks();
    let_all_run().await;
    store.hangs.store(true, Ordering::SeqCst);
    one.open();
    let_all_run().await;
    assert_eq!(first.await.unwrap().1, "call 1");
    store.hangs.store(false, Ordering::SeqCst);
    hands.advance(Duration::from_secs(5)).await;
    assert_eq!(second.await.unwrap().1, "call 2");
}

/// A body of which the test sends each piece.
struct Pieces(mpsc::UnboundedReceiver<Bytes>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        let piece = self.0.poll_recv(cx);
        piece.map(|piece| piece.map(|bytes| Ok(http_body::Frame::data(bytes))))
    }
}

/// Requests a response of ten bytes, disconnects its client after the first five, and returns the
/// sender of the rest.
async fn left_by_its_client(
    hands: &Hands,
    store: &Shared,
    configure: impl FnOnce(CacheLayerBuilder) -> CacheLayerBuilder,
) -> mpsc::UnboundedSender<Bytes> {
    let (pieces, body) = mpsc::unbounded_channel();
    let body = Arc::new(Mutex::new(Some(Pieces(body))));
    let builder = CacheLayer::secure(store.clone())
        .clock(hands.clock.clone())
        .runtime(hands.clone());
    let handler = service_fn(move |_: Request<Full<Bytes>>| {
        let response = Response::builder()
            .header("cache-control", "max-age=60")
            .header("content-length", "10")
            .body(body.lock().unwrap().take().unwrap())
            .unwrap();
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let service = configure(builder).build().unwrap().layer(handler);
    let mut response = service.oneshot(get("/a")).await.unwrap();
    pieces.send(Bytes::from_static(b"01234")).unwrap();
    response.body_mut().frame().await.unwrap().unwrap();
    drop(response);
    pieces
}

#[tokio::test]
async fn abandoned_response_is_completed_for_later_requests() {
    let hands = Hands::default();
    let store = Shared::over(&hands);
    let pieces = left_by_its_client(&hands, &store, |builder| builder).await;
    let_all_run().await;
    pieces.send(Bytes::from_static(b"56789")).unwrap();
    let_all_run().await;
    let next = Process::new(&hands, &store).asks().await.unwrap();
    assert_eq!(next.1, "0123456789");
    assert_eq!(store.holder(), None);
}

#[tokio::test]
async fn abandoned_response_is_dropped_beyond_max_finish_bytes() {
    for most in [0, 4] {
        let hands = Hands::default();
        let store = Shared::over(&hands);
        let pieces = left_by_its_client(&hands, &store, |builder| builder.max_finish_bytes(most));
        let pieces = pieces.await;
        assert!(pieces.send(Bytes::from_static(b"56789")).is_err());
        assert_eq!(store.holder(), None);
    }
}

#[tokio::test]
async fn no_more_answers_than_a_few_are_finished_without_their_clients_at_once() {
    let endings: Arc<Mutex<Vec<mpsc::UnboundedSender<Bytes>>>> = Arc::default();
    let sent = Arc::clone(&endings);
    let handler = service_fn(move |_: Request<Full<Bytes>>| {
        let (pieces, body) = mpsc::unbounded_channel();
        sent.lock().unwrap().push(pieces);
        let response = Response::builder().header("cache-control", "max-age=60");
        std::future::ready(Ok::<_, Infallible>(response.body(Pieces(body)).unwrap()))
    });
    let cache = CacheLayer::secure(MemoryStore::new()).max_body_bytes(1_000);
    let service = cache
        .runtime(Hands::default())
        .build()
        .unwrap()
        .layer(handler);
    let leave = async |number: usize| {
        let asked = service.clone().oneshot(get(&format!("/{number}")));
        drop(asked.await.unwrap());
    };
    for number in 0..70 {
        leave(number).await;
    }
    let goes_on = |number: usize| !endings.lock().unwrap()[number].is_closed();
    assert_eq!((0..70).filter(|number| goes_on(*number)).count(), 64);
    // There is capacity again once they have ended.
    endings.lock().unwrap().clear();
    let_all_run().await;
    leave(70).await;
    assert!(goes_on(0));
}

#[tokio::test]
async fn abandoned_response_is_completed_within_max_wait() {
    let hands = Hands::default();
    let store = Shared::over(&hands);
    let pieces = left_by_its_client(&hands, &store, |builder| {
        builder.max_wait(Duration::from_secs(2))
    });
    let pieces = pieces.await;
    let_all_run().await;
    assert!(pieces.send(Bytes::from_static(b"567")).is_ok());
    hands.advance(Duration::from_secs(2)).await;
    assert!(pieces.send(Bytes::from_static(b"89")).is_err());
    assert_eq!(store.holder(), None);
}

#[tokio::test]
async fn aborted_response_is_not_stored() {
    let hands = Hands::default();
    let store = Shared::over(&hands);
    drop(left_by_its_client(&hands, &store, |builder| builder).await);
    let_all_run().await;
    let next = Process::new(&hands, &store);
    next.open();
    assert_eq!(next.asks().await.unwrap().1, "call 1");
}
