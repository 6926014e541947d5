//! Concurrent requests for the same response.

use std::{
    convert::Infallible,
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use portcullis::{
    Runtime, Task,
    cache::{Cache, CacheLayer, CacheLayerBuilder},
    store::MemoryStore,
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::{
    cache::{caller, get_as, response_with},
    leaks::Sent,
};
use crate::support::{
    get,
    hands::{Hands, let_all_run},
    header, text,
};

/// A handler that answers once it is let, and counts who came.
#[derive(Clone)]
struct Slow {
    calls: Arc<AtomicUsize>,
    let_through: Arc<Semaphore>,
}

impl Slow {
    fn new() -> Self {
        Self {
            calls: Arc::default(),
            let_through: Arc::new(Semaphore::new(0)),
        }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    fn open(&self) {
        self.let_through.add_permits(Semaphore::MAX_PERMITS / 2);
    }

    fn cached(
        &self,
        fields: &'static [(&'static str, &'static str)],
        configure: impl FnOnce(CacheLayerBuilder) -> CacheLayerBuilder,
    ) -> Cache<impl CachedHandler> {
        let slow = self.clone();
        let layer = configure(CacheLayer::secure(MemoryStore::new()))
            .build()
            .unwrap();
        layer.layer(service_fn(move |_| {
            let slow = slow.clone();
            async move {
                let call = slow.calls.fetch_add(1, Ordering::SeqCst) + 1;
                let _permit = slow.let_through.acquire().await.unwrap();
                Ok(response_with(fields, format!("call {call}")))
            }
        }))
    }
}

trait CachedHandler:
    Service<
        Request<Full<Bytes>>,
        Response = Response<Full<Bytes>>,
        Error = Infallible,
        Future: Send + 'static,
    > + Clone
    + Send
    + 'static
{
}

impl<S> CachedHandler for S where
    S: Service<
            Request<Full<Bytes>>,
            Response = Response<Full<Bytes>>,
            Error = Infallible,
            Future: Send + 'static,
        > + Clone
        + Send
        + 'static
{
}

async fn body(service: Cache<impl CachedHandler>, request: Request<Full<Bytes>>) -> String {
    text(service.oneshot(request).await.unwrap()).await
}

const FRESH: &[(&str, &str)] = &[("cache-control", "max-age=60")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_misses_at_once_are_one_call_of_the_handler() {
    let slow = Slow::new();
    let service = slow.cached(FRESH, |builder| builder);
    let mut asking = JoinSet::new();
    for _ in 0..1_000 {
        asking.spawn(body(service.clone(), get("/a")));
    }
    while slow.calls() == 0 {
        tokio::task::yield_now().await;
    }
    slow.open();
    for asked in asking.join_all().await {
        assert_eq!(asked, "call 1");
    }
    assert_eq!(slow.calls(), 1);
}

#[tokio::test]
async fn collapsed_response_is_marked_in_cache_status() {
    let slow = Slow::new();
    let service = slow.cached(FRESH, |builder| builder);
    let first = tokio::spawn(body(service.clone(), get("/a")));
    while slow.calls() == 0 {
        tokio::task::yield_now().await;
    }
    let second = tokio::spawn(service.oneshot(get("/a")));
    tokio::task::yield_now().await;
    slow.open();
    first.await.unwrap();
    let second = second.await.unwrap().unwrap();
    let status = header(second.headers(), "cache-status");
    assert_eq!(status, Some("portcullis; fwd=uri-miss; collapsed; ttl=60"));
}

#[tokio::test]
async fn callers_do_not_wait_for_each_other() {
    let slow = Slow::new();
    let service = slow.cached(FRESH, |builder| builder);
    let (one, two) = (caller("one"), caller("two"));
    let asking = [&one, &two, &one, &two]
        .map(|caller| tokio::spawn(body(service.clone(), get_as("/a", caller))));
    while slow.calls() < 2 {
        tokio::task::yield_now().await;
    }
    slow.open();
    let mut bodies = Vec::new();
    for asked in asking {
        bodies.push(asked.await.unwrap());
    }
    assert_eq!(bodies, ["call 1", "call 2", "call 1", "call 2"]);
}

#[tokio::test]
async fn waiter_takes_over_from_a_canceled_leader() {
    let slow = Slow::new();
    let service = slow.cached(FRESH, |builder| builder);
    let leader = tokio::spawn(body(service.clone(), get("/a")));
    while slow.calls() == 0 {
        tokio::task::yield_now().await;
    }
    let follower = tokio::spawn(body(service.clone(), get("/a")));
    tokio::task::yield_now().await;
    leader.abort();
    slow.open();
    assert_eq!(follower.await.unwrap(), "call 2");
    assert_eq!(body(service, get("/a")).await, "call 2");
}

#[tokio::test]
async fn a_leader_that_panics_hands_over_to_one() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let handler = service_fn(move |_: Request<Full<Bytes>>| {
        let call = counted.fetch_add(1, Ordering::SeqCst) + 1;
        async move {
            tokio::task::yield_now().await;
            assert!(call > 1, "the first call panics");
            Ok::<_, Infallible>(response_with(FRESH, format!("call {call}")))
        }
    });
    let service = CacheLayer::new(MemoryStore::new()).layer(handler);
    let ask = || {
        let asked = service.clone().oneshot(get("/a"));
        tokio::spawn(async { text(asked.await.unwrap()).await })
    };
    let (leader, followers) = (ask(), [(); 9].map(|()| ask()));
    assert!(leader.await.unwrap_err().is_panic());
    for follower in followers {
        assert_eq!(follower.await.unwrap(), "call 2");
    }
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_leader_that_fails_hands_over_to_one() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let handler = service_fn(move |_: Request<Full<Bytes>>| {
        let call = counted.fetch_add(1, Ordering::SeqCst) + 1;
        async move {
            tokio::task::yield_now().await;
            match call {
                1 => Err("gone"),
                _ => Ok(response_with(FRESH, format!("call {call}"))),
            }
        }
    });
    let service = CacheLayer::new(MemoryStore::new()).layer(handler);
    let ask = || {
        let asked = service.clone().oneshot(get("/a"));
        tokio::spawn(async { Ok::<_, &str>(text(asked.await?).await) })
    };
    let (leader, followers) = (ask(), [(); 9].map(|()| ask()));
    assert_eq!(leader.await.unwrap(), Err("gone"));
    for follower in followers {
        assert_eq!(follower.await.unwrap().unwrap(), "call 2");
    }
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn unread_leader_response_does_not_delay_waiters() {
    for max_finish_bytes in [0, 256 << 10] {
        let slow = Slow::new();
        slow.open();
        let service = slow.cached(FRESH, |builder| builder.max_finish_bytes(max_finish_bytes));
        let unread = service.clone().oneshot(get("/a")).await.unwrap();
        let follower = tokio::spawn(body(service, get("/a")));
        assert_eq!(follower.await.unwrap(), "call 1");
        assert_eq!(text(unread).await, "call 1");
        assert_eq!(slow.calls(), 1);
    }
}

#[tokio::test]
async fn waiter_receives_a_complete_body_if_the_leader_disconnects() {
    let unfinished: Arc<Mutex<Vec<mpsc::UnboundedSender<Bytes>>>> = Arc::default();
    let bodies = Arc::clone(&unfinished);
    let handler = service_fn(move |_: Request<Full<Bytes>>| {
        let (send, receive) = mpsc::unbounded_channel();
        send.send(Bytes::from_static(b"one half, ")).unwrap();
        bodies.lock().unwrap().push(send);
        let mut response = Response::new(Sent(receive));
        let fresh = HeaderValue::from_static("max-age=60");
        response.headers_mut().insert("cache-control", fresh);
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let service = CacheLayer::new(MemoryStore::new()).layer(handler);
    let mut leader = service.clone().oneshot(get("/a")).await.unwrap();
    leader.body_mut().frame().await.unwrap().unwrap();
    let follower = tokio::spawn(async { text(service.oneshot(get("/a")).await.unwrap()).await });
    tokio::task::yield_now().await;
    assert!(!follower.is_finished());
    drop(leader);
    // The response is complete, whether the leader's call produces it or the follower's.
    while !follower.is_finished() {
        tokio::task::yield_now().await;
        for body in std::mem::take(&mut *unfinished.lock().unwrap()) {
            let _ = body.send(Bytes::from_static(b"the other"));
        }
    }
    assert_eq!(follower.await.unwrap(), "one half, the other");
}

#[tokio::test]
async fn unstorable_response_releases_all_waiters() {
    let slow = Slow::new();
    let service = slow.cached(&[("cache-control", "no-store")], |builder| builder);
    let asking = [(); 3].map(|()| tokio::spawn(body(service.clone(), get("/a"))));
    while slow.calls() == 0 {
        tokio::task::yield_now().await;
    }
    slow.open();
    for asked in asking {
        asked.await.unwrap();
    }
    assert_eq!(slow.calls(), 3);
    // Nor does a request wait soon afterwards.
    let slow_again = service.clone().oneshot(get("/a")).await.unwrap();
    assert_eq!(body(service, get("/a")).await, "call 5");
    drop(slow_again);
}

#[tokio::test]
async fn more_than_the_bound_do_not_wait() {
    let slow = Slow::new();
    let service = slow.cached(FRESH, |builder| builder.max_waiters(1));
    let asking = [(); 3].map(|()| tokio::spawn(body(service.clone(), get("/a"))));
    while slow.calls() < 2 {
        tokio::task::yield_now().await;
    }
    slow.open();
    for asked in asking {
        asked.await.unwrap();
    }
    assert_eq!(slow.calls(), 2);
}

/// Sleeps no moment.
#[derive(Debug)]
struct Hasty;

impl Runtime for Hasty {
    fn spawn(&self, task: Task) {
        tokio::spawn(task);
    }

    fn sleep(&self, _: Duration) -> Task {
        Box::pin(std::future::ready(()))
    }
}

#[tokio::test]
async fn waiter_calls_the_handler_after_max_wait() {
    let slow = Slow::new();
    let service = slow.cached(FRESH, |builder| builder.runtime(Hasty));
    let leader = tokio::spawn(body(service.clone(), get("/a")));
    while slow.calls() == 0 {
        tokio::task::yield_now().await;
    }
    let hasty = tokio::spawn(body(service, get("/a")));
    while slow.calls() < 2 {
        tokio::task::yield_now().await;
    }
    slow.open();
    assert_eq!(hasty.await.unwrap(), "call 2");
    assert_eq!(leader.await.unwrap(), "call 1");
}

#[tokio::test]
async fn max_wait_is_not_extended_by_successive_leaders() {
    let (slow, hands) = (Slow::new(), Hands::default());
    let service = slow.cached(FRESH, |builder| {
        builder.runtime(hands.clone()).clock(hands.clock.clone())
    });
    let mut asking = [(); 3].map(|()| Some(tokio::spawn(body(service.clone(), get("/a")))));
    let_all_run().await;
    assert_eq!(slow.calls(), 1);
    hands.advance(Duration::from_secs(3)).await;
    asking[0].take().unwrap().abort();
    let_all_run().await;
    // One of the two calls the handler; the other has already waited for three seconds.
    assert_eq!(slow.calls(), 2);
    hands.advance(Duration::from_secs(2)).await;
    assert_eq!(slow.calls(), 3);
    slow.open();
    for asked in asking.into_iter().flatten() {
        assert!(asked.await.unwrap().starts_with("call"));
    }
}

#[tokio::test]
async fn leader_dropped_at_any_poll_blocks_no_waiter() {
    for polls in 0..3 {
        let slow = Slow::new();
        let service = slow.cached(FRESH, |builder| builder);
        let mut leader = Box::pin(service.clone().oneshot(get("/a")));
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..polls {
            assert!(leader.as_mut().poll(&mut cx).is_pending());
        }
        let mut follower = Box::pin(service.clone().oneshot(get("/a")));
        assert!(follower.as_mut().poll(&mut cx).is_pending());
        drop(leader);
        drop(follower);
        slow.open();
        let mut last = Box::pin(service.oneshot(get("/a")));
        assert!(matches!(last.as_mut().poll(&mut cx), Poll::Ready(Ok(_))));
    }
}
