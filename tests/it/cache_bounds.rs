//! What the cache holds at most, whatever clients ask for.

use std::{
    convert::Infallible,
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use allocation_counter::measure;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header::CACHE_CONTROL};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use portcullis::{
    cache::{Cache, CacheLayer},
    store::MemoryStore,
};
use tokio::sync::mpsc;
use tower::{Layer, ServiceExt, service_fn};

use crate::{
    cache::{Handler, answer, get_with},
    cache_leaks::Sent,
    support::get,
};

#[tokio::test]
async fn a_body_of_any_size_streams_through_without_being_held() {
    /// Makes pieces, and counts those that somebody holds.
    struct Endless {
        left: usize,
        held: Arc<AtomicUsize>,
    }

    struct Piece(Vec<u8>, Arc<AtomicUsize>);

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
            self.held.fetch_add(1 << 16, Ordering::SeqCst);
            let piece = Piece(vec![0; 1 << 16], Arc::clone(&self.held));
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(piece)))))
        }
    }

    let held = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&held);
    let layer = CacheLayer::new(MemoryStore::new());
    let service = layer.layer(service_fn(move |_: Request<Full<Bytes>>| {
        let held = Arc::clone(&counted);
        let mut response = Response::new(Endless {
            left: 1 << 10,
            held,
        });
        let fresh = HeaderValue::from_static("max-age=60");
        response.headers_mut().insert(CACHE_CONTROL, fresh);
        std::future::ready(Ok::<_, Infallible>(response))
    }));
    let mut body = service.oneshot(get("/a")).await.unwrap().into_body();
    let (mut read, mut most) = (0, 0);
    while let Some(frame) = body.frame().await {
        read += frame.unwrap().into_data().unwrap().len();
        most = most.max(held.load(Ordering::SeqCst));
    }
    assert_eq!(read, 64 << 20);
    assert!(
        most <= (1 << 20) + (1 << 17),
        "{most} bytes were held at once"
    );
    assert_eq!(held.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn what_is_being_stored_at_one_moment_is_bounded() {
    let layer = CacheLayer::secure(MemoryStore::new())
        .filling_bytes_max(100)
        .build()
        .unwrap();
    let service = layer.layer(service_fn(|request: Request<Full<Bytes>>| {
        let (send, receive) = mpsc::unbounded_channel();
        send.send(Bytes::from_static(&[b'x'; 60])).unwrap();
        if request.uri().path() == "/slow" {
            // It never ends.
            std::mem::forget(send);
        }
        let mut response = Response::new(Sent(receive));
        let fresh = HeaderValue::from_static("max-age=60");
        response.headers_mut().insert(CACHE_CONTROL, fresh);
        std::future::ready(Ok::<_, Infallible>(response))
    }));
    let is_hit = async |path| {
        let response = service.clone().oneshot(get(path)).await.unwrap();
        let status = response.headers()["cache-status"]
            .to_str()
            .unwrap()
            .to_owned();
        response.into_body().collect().await.unwrap();
        status.contains("; hit")
    };
    let mut slow = service.clone().oneshot(get("/slow")).await.unwrap();
    slow.body_mut().frame().await.unwrap().unwrap();
    assert!(!is_hit("/a").await);
    assert!(!is_hit("/a").await, "it was stored beyond the bound");
    drop(slow);
    assert!(!is_hit("/b").await);
    assert!(is_hit("/b").await);
}

#[test]
fn a_flood_of_urls_and_variants_stays_within_the_bytes() {
    const BYTES_MAX: u64 = 4 << 20;
    let mut kept = None;
    let allocated = measure(|| {
        let store = MemoryStore::builder()
            .cache_bytes_max(BYTES_MAX)
            .rate_limit_partitions_max(1)
            .build()
            .unwrap();
        let fields = &[("cache-control", "max-age=60"), ("vary", "accept, x-v")];
        let layer = CacheLayer::new(store);
        let service = layer.layer(Handler::new(|_, _| answer(fields, vec![b'x'; 256])));
        for number in 0..100_000_u32 {
            flood(service.clone(), number);
        }
        kept = Some(service);
    });
    let held = u64::try_from(allocated.bytes_current).unwrap();
    assert!(held <= BYTES_MAX + BYTES_MAX / 10, "{held} bytes are held");
    assert!(
        held >= BYTES_MAX / 2,
        "{held} bytes are held: too little is kept"
    );
}

/// Asks for an answer of its own, and reads it.
fn flood(service: Cache<Handler>, number: u32) {
    let mut request = get_with(&format!("/{}", number / 4), &[("accept", "*/*")]);
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
