//! Upper bounds on the memory of the cache under arbitrary requests.

use std::{
    convert::Infallible,
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use allocation_counter::measure;
use bytes::Bytes;
use http::{
    HeaderValue, Request, Response,
    header::{CACHE_CONTROL, CONTENT_LENGTH},
};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use portcullis::{
    ManualClock,
    cache::{Cache, CacheLayer},
    store::MemoryStore,
};
use tokio::sync::mpsc;
use tower::{Layer, ServiceExt, service_fn};

use super::{
    cache::{Handler, get_with, response_with},
    leaks::Sent,
};
use crate::support::get;

#[test]
fn a_body_of_any_size_streams_through_in_the_same_memory() {
    const PIECE_BYTES: usize = 256 << 10;

    /// Yields the same buffer repeatedly, and counts the bytes that are still referenced.
    struct Endless {
        left: usize,
        memory: Arc<[u8]>,
        held: Arc<AtomicUsize>,
    }

    struct Piece(Arc<[u8]>, Arc<AtomicUsize>);

    impl AsRef<[u8]> for Piece {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl Drop for Piece {
        fn drop(&mut self) {
            self.1.fetch_sub(self.0.len(), Ordering::SeqCst);
        }
    }

    impl Body for Endless {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            if self.left == 0 {
                return Poll::Ready(None);
            }
            self.left -= 1;
            self.held.fetch_add(self.memory.len(), Ordering::SeqCst);
            let piece = Piece(Arc::clone(&self.memory), Arc::clone(&self.held));
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(piece)))))
        }
    }

    const BODY_BYTES: usize = 1 << 30;
    for announced in [false, true] {
        let held = Arc::new(AtomicUsize::new(0));
        let memory: Arc<[u8]> = vec![b'x'; PIECE_BYTES].into();
        let counted = Arc::clone(&held);
        let layer = CacheLayer::new(MemoryStore::new());
        let service = layer.layer(service_fn(move |_: Request<Full<Bytes>>| {
            let mut response = Response::new(Endless {
                left: BODY_BYTES / PIECE_BYTES,
                memory: Arc::clone(&memory),
                held: Arc::clone(&counted),
            });
            let fresh = HeaderValue::from_static("max-age=60");
            response.headers_mut().insert(CACHE_CONTROL, fresh);
            if announced {
                let bytes = HeaderValue::from(BODY_BYTES);
                response.headers_mut().insert(CONTENT_LENGTH, bytes);
            }
            std::future::ready(Ok::<_, Infallible>(response))
        }));
        let (mut read, mut most) = (0, 0);
        let allocated = measure(|| {
            let mut reading = pin!(async {
                let mut body = service.oneshot(get("/a")).await.unwrap().into_body();
                while let Some(frame) = body.frame().await {
                    read += frame.unwrap().into_data().unwrap().len();
                    most = most.max(held.load(Ordering::SeqCst));
                }
            });
            let mut cx = Context::from_waker(Waker::noop());
            assert!(reading.as_mut().poll(&mut cx).is_ready());
        });
        assert_eq!(read, BODY_BYTES);
        assert!(
            most <= (1 << 20) + 2 * PIECE_BYTES,
            "{most} bytes were held at once"
        );
        assert_eq!(held.load(Ordering::SeqCst), 0);
        let bytes = allocated.bytes_max;
        assert!(bytes < 256 << 10, "{bytes} bytes were allocated at once");
    }
}

/// Answers with 60 bytes; `/slow` never ends after that.
fn slow(request: Request<Full<Bytes>>) -> std::future::Ready<Result<Response<Sent>, Infallible>> {
    let (send, receive) = mpsc::unbounded_channel();
    send.send(Bytes::from_static(&[b'x'; 60])).unwrap();
    if request.uri().path() == "/slow" {
        std::mem::forget(send);
    }
    let mut response = Response::new(Sent(receive));
    let fresh = HeaderValue::from_static("max-age=6000");
    response.headers_mut().insert(CACHE_CONTROL, fresh);
    std::future::ready(Ok(response))
}

#[tokio::test]
async fn max_fill_bytes_bounds_concurrent_fills() {
    let clock = ManualClock::default();
    let layer = CacheLayer::secure(MemoryStore::builder().clock(clock.clone()).build().unwrap())
        .clock(clock.clone())
        .max_fill_bytes(100)
        .fill_timeout(Duration::from_secs(30))
        .build()
        .unwrap();
    let service = layer.layer(service_fn(slow));
    let is_hit = async |path| {
        let response = service.clone().oneshot(get(path)).await.unwrap();
        let status = response.headers()["cache-status"]
            .to_str()
            .unwrap()
            .to_owned();
        response.into_body().collect().await.unwrap();
        status.contains("; hit")
    };
    let begin = async || {
        let mut slow = service.clone().oneshot(get("/slow")).await.unwrap();
        slow.body_mut().frame().await.unwrap().unwrap();
        slow
    };
    let slow = begin().await;
    assert!(!is_hit("/a").await);
    assert!(!is_hit("/a").await, "it was stored beyond the bound");
    drop(slow);
    assert!(!is_hit("/b").await);
    assert!(is_hit("/b").await);

    // A client that stops reading loses its fill after the timeout, if others need the budget.
    let slow = begin().await;
    clock.advance(Duration::from_secs(29));
    assert!(!is_hit("/c").await);
    assert!(!is_hit("/c").await);
    clock.advance(Duration::from_secs(1));
    assert!(!is_hit("/c").await, "it is stored only now");
    assert!(is_hit("/c").await);
    drop(slow);
    // Its share of the budget is released only once.
    let _slow = begin().await;
    assert!(!is_hit("/d").await);
    assert!(!is_hit("/d").await);
}

#[tokio::test]
async fn fill_that_loses_its_budget_streams_on_without_storage() {
    let clock = ManualClock::default();
    let layer = CacheLayer::secure(MemoryStore::builder().clock(clock.clone()).build().unwrap())
        .clock(clock.clone())
        .max_fill_bytes(100)
        .build()
        .unwrap();
    let (send, receive) = mpsc::unbounded_channel();
    let body = Arc::new(Mutex::new(Some(receive)));
    let service = layer.layer(service_fn(move |request: Request<Full<Bytes>>| {
        let taken = body.lock().unwrap().take();
        match taken.filter(|_| request.uri().path() == "/late") {
            None => slow(request),
            Some(receive) => {
                let mut response = Response::new(Sent(receive));
                let fresh = HeaderValue::from_static("max-age=6000");
                response.headers_mut().insert(CACHE_CONTROL, fresh);
                std::future::ready(Ok(response))
            }
        }
    }));
    send.send(Bytes::from_static(&[b'1'; 50])).unwrap();
    let mut late = service.clone().oneshot(get("/late")).await.unwrap();
    late.body_mut().frame().await.unwrap().unwrap();
    clock.advance(Duration::from_secs(60));
    let other = service.clone().oneshot(get("/a")).await.unwrap();
    other.into_body().collect().await.unwrap();
    send.send(Bytes::from_static(&[b'2'; 30])).unwrap();
    drop(send);
    let rest = late.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(rest, [b'2'; 30][..]);

    for (path, is_kept) in [("/a", true), ("/late", false)] {
        let response = service.clone().oneshot(get(path)).await.unwrap();
        let status = response.headers()["cache-status"].to_str().unwrap();
        assert_eq!(status.contains("; hit"), is_kept, "{path}");
    }
}

#[test]
fn a_flood_of_urls_and_variants_stays_within_the_bytes() {
    const MAX_BYTES: u64 = 4 << 20;
    let mut kept = None;
    let allocated = measure(|| {
        let store = MemoryStore::builder()
            .max_cache_bytes(MAX_BYTES)
            .max_rate_limit_partitions(1)
            .build()
            .unwrap();
        let fields = &[("cache-control", "max-age=60"), ("vary", "accept, x-v")];
        let layer = CacheLayer::new(store);
        let service = layer.layer(Handler::new(|_, _| response_with(fields, vec![b'x'; 256])));
        // As many URLs, each with a value of its own; then as many values of one; then both.
        for number in 0..100_000_u32 {
            flood(service.clone(), &format!("/{number}"), number);
        }
        for number in 0..10_000_u32 {
            flood(service.clone(), "/one", number);
        }
        for number in 0..10_000_u32 {
            flood(service.clone(), &format!("/{}", number / 4), number);
        }
        kept = Some(service);
    });
    let held = u64::try_from(allocated.bytes_current).unwrap();
    assert!(held <= MAX_BYTES + MAX_BYTES / 10, "{held} bytes are held");
    assert!(
        held >= MAX_BYTES / 2,
        "{held} bytes are held: too little is stored"
    );
}

/// Sends a request for a separate variant, and reads the response.
fn flood(service: Cache<Handler>, uri: &str, number: u32) {
    let mut request = get_with(uri, &[("accept", "*/*")]);
    request
        .headers_mut()
        .insert("x-v", HeaderValue::from(number));
    let mut asked = pin!(async {
        let response = service.oneshot(request).await.unwrap();
        response.into_body().collect().await.unwrap();
    });
    let mut cx = Context::from_waker(Waker::noop());
    assert!(asked.as_mut().poll(&mut cx).is_ready());
}
