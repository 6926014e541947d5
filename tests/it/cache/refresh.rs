//! Background refreshes: one of them serves all processes, and each one needs a runtime.

use std::{sync::atomic::Ordering, time::Duration};

use portcullis::{TokioRuntime, cache::CacheLayer, store::MemoryStore};

use super::cache::Handler;
use crate::support::{
    get,
    hands::{Hands, let_all_run},
    header,
    processes::{FRESH, Process, Shared},
    text,
};
use tower::{Layer, ServiceExt};

const WHILE_STALE: &[(&str, &str)] = &[("cache-control", "max-age=10, stale-while-revalidate=60")];

/// Two processes over one store, which has a stale response.
async fn two_with_stale_entry() -> (Hands, Shared, Process, Process) {
    let hands = Hands::default();
    let store = Shared::over(&hands);
    let process = || Process::configured(&hands, &store, WHILE_STALE, |builder| builder);
    let (one, two) = (process(), process());
    one.let_one_through();
    assert_eq!(one.asks().await.unwrap().1, "call 1");
    hands.advance(Duration::from_secs(20)).await;
    (hands, store, one, two)
}

#[tokio::test]
async fn several_processes_refresh_a_stale_entry_once() {
    let (hands, store, one, two) = two_with_stale_entry().await;
    for process in [&one, &two, &one, &two] {
        let (status, body) = process.asks().await.unwrap();
        assert_eq!(
            (status.as_str(), body.as_str()),
            ("portcullis; hit; ttl=-10", "call 1")
        );
        let_all_run().await;
    }
    assert_eq!((one.calls(), two.calls()), (2, 0));
    one.open();
    hands.advance(Duration::from_secs(1)).await;
    assert_eq!(store.holder(), None);
    for process in [&one, &two] {
        assert_eq!(process.asks().await.unwrap().1, "call 2");
    }
    assert_eq!((one.calls(), two.calls()), (2, 0));
}

#[tokio::test]
async fn late_lease_finds_the_entry_already_refreshed() {
    let (_hands, store, one, two) = two_with_stale_entry().await;
    // The store answers the look-up of one of them, and not yet its question for the lease.
    store.is_late.store(true, Ordering::SeqCst);
    let late = two.asks();
    let_all_run().await;
    store.may_reply.add_permits(1);
    assert_eq!(late.await.unwrap().1, "call 1");
    store.is_late.store(false, Ordering::SeqCst);
    one.open();
    assert_eq!(one.asks().await.unwrap().1, "call 1");
    let_all_run().await;
    assert_eq!(one.asks().await.unwrap().1, "call 2");
    store.may_reply.add_permits(1);
    let_all_run().await;
    assert_eq!((one.calls(), two.calls()), (2, 0));
    let leases = store.leases.lock().unwrap();
    assert_eq!((leases.given, leases.holder), (3, None));
}

#[tokio::test]
async fn stale_entry_is_refreshed_without_a_lease_reply() {
    let (hands, store, one, _) = two_with_stale_entry().await;
    store.is_late.store(true, Ordering::SeqCst);
    let asked = one.asks();
    let_all_run().await;
    store.may_reply.add_permits(1);
    assert_eq!(asked.await.unwrap().1, "call 1");
    store.is_late.store(false, Ordering::SeqCst);
    one.open();
    hands.advance(Duration::from_millis(25)).await;
    assert_eq!(one.asks().await.unwrap().1, "call 2");
}

/// Runs on a Tokio runtime that has no time driver.
fn without_a_timer(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(test);
}

#[test]
fn without_timer_requests_collapse_only_within_a_process() {
    without_a_timer(async {
        let hands = Hands::default();
        let store = Shared::over(&hands);
        let process = || {
            Process::configured(&hands, &store, FRESH, |builder| {
                builder.runtime(TokioRuntime)
            })
        };
        let (one, two) = (process(), process());
        let first = one.asks();
        let_all_run().await;
        let (second, elsewhere) = (one.asks(), two.asks());
        let_all_run().await;
        assert_eq!((one.calls(), two.calls()), (1, 1));
        one.open();
        two.open();
        assert_eq!(first.await.unwrap().1, "call 1");
        assert!(second.await.unwrap().0.contains("collapsed"));
        assert_eq!(elsewhere.await.unwrap().1, "call 1");
        // The request also waits for a store that does not reply.
        store.is_late.store(true, Ordering::SeqCst);
        let asked = one.asks();
        let_all_run().await;
        store.may_reply.add_permits(9);
        asked.await.unwrap();
    });
}

#[test]
fn stale_entry_is_not_served_without_a_runtime_to_refresh_it() {
    use std::{
        pin::pin,
        task::{Context, Poll, Waker},
    };
    let hands = Hands::default();
    let handler = Handler::with(WHILE_STALE);
    let layer = CacheLayer::secure(MemoryStore::with_clock(hands.clock.clone()));
    let service = layer
        .clock(hands.clock.clone())
        .build()
        .unwrap()
        .layer(handler);
    let ask = || {
        let asked = async {
            let response = service.clone().oneshot(get("/a")).await.unwrap();
            let status = header(response.headers(), "cache-status")
                .unwrap()
                .to_owned();
            (status, text(response).await)
        };
        match pin!(asked).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(seen) => seen,
            Poll::Pending => panic!("all is in memory"),
        }
    };
    assert_eq!(ask().1, "call 1");
    hands.clock.advance(Duration::from_secs(20));
    let (status, body) = ask();
    assert_eq!(body, "call 2");
    assert!(status.starts_with("portcullis; fwd=stale"), "{status}");
}
