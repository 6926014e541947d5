//! Charges by the response: reserved at the admission, and refunded if the response does not count.

use std::{
    convert::Infallible,
    future::{Future, pending},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use portcullis::{
    Identity, ManualClock, RequestHead, ResponseBody, StoreErrorKind, StoreFuture,
    api_key::{ApiKeyLayer, KeyRing, Pepper},
    cache::CacheLayer,
    rate_limit::{
        OnStoreError, Partition, Penalty, Policy, Quota, RateLimitLayer, RateLimitLayerBuilder,
        RateLimitStore, Settlement,
    },
    store::{
        MemoryStore, StoreKeys,
        backend::{Charge, Decisions, Refund, StoreKey},
    },
};
use proptest::{collection::vec, prelude::*};
use tokio::sync::oneshot;
use tower::{Layer, ServiceExt, service_fn};

use super::failure::{Says, Server};
use crate::support::{get, hands::let_all_run, slow_store::SlowStore};

type Reply = Response<ResponseBody<Full<Bytes>>>;
type Call = Pin<Box<dyn Future<Output = Result<Reply, Infallible>> + Send>>;

const OK: StatusCode = StatusCode::OK;
const FAILED: StatusCode = StatusCode::UNAUTHORIZED;

fn quota() -> Quota {
    Quota::new(10, Duration::from_secs(10))
}

fn window(name: &str) -> Policy {
    Policy::fixed_window(name, quota()).unwrap()
}

fn policies() -> [Policy; 6] {
    [
        Policy::fixed_window("logins", quota()),
        Policy::aligned_window("logins", quota()),
        Policy::sliding_window("logins", quota()),
        Policy::sliding_log("logins", quota()),
        Policy::token_bucket("logins", quota()),
        Policy::leaky_bucket("logins", quota()),
    ]
    .map(Result::unwrap)
}

/// Charges responses with status `401`.
fn failed_only(store: impl RateLimitStore) -> RateLimitLayerBuilder {
    RateLimitLayer::builder(store, Partition::identity())
        .charge_if(|response, _| response.status == FAILED)
}

fn memory() -> MemoryStore {
    MemoryStore::with_clock(ManualClock::default())
}

fn request() -> Request<Full<Bytes>> {
    let mut request = get("/");
    let caller = Identity::builder("k1").build();
    request.extensions_mut().insert(caller);
    request
}

fn response(status: StatusCode) -> Response<Full<Bytes>> {
    let response = Response::builder().status(status);
    response.body(Full::from("served")).unwrap()
}

async fn send(layer: &RateLimitLayer, status: StatusCode) -> Reply {
    let inner = service_fn(async |_: Request<_>| Ok::<_, Infallible>(response(status)));
    let reply = layer.layer(inner).oneshot(request()).await.unwrap();
    let_all_run().await;
    reply
}

/// Returns the remaining quota of each policy.
async fn left(layer: &RateLimitLayer) -> Vec<u64> {
    let request = request();
    let outcome = layer.handle().peek(&RequestHead::from(&request)).await;
    let outcome = outcome.unwrap().unwrap();
    let policies = outcome.policies().iter();
    policies.map(|policy| policy.remaining).collect()
}

/// Starts a request whose response is sent through the channel.
fn start(layer: &RateLimitLayer) -> (Call, oneshot::Sender<StatusCode>) {
    let (sender, receiver) = oneshot::channel();
    let receiver = Arc::new(Mutex::new(Some(receiver)));
    let inner = service_fn(move |_: Request<_>| {
        let receiver = receiver.lock().unwrap().take().unwrap();
        async move { Ok::<_, Infallible>(response(receiver.await.unwrap())) }
    });
    (Box::pin(layer.layer(inner).oneshot(request())), sender)
}

fn poll(call: &mut Call) -> Poll<StatusCode> {
    let mut cx = Context::from_waker(Waker::noop());
    call.as_mut()
        .poll(&mut cx)
        .map(|reply| reply.unwrap().status())
}

#[tokio::test]
async fn only_chosen_responses_are_charged_by_each_algorithm() {
    for policy in policies() {
        let layer = failed_only(memory())
            .policy(policy.clone())
            .build()
            .unwrap();
        for _ in 0..50 {
            assert_eq!(send(&layer, OK).await.status(), OK, "{policy:?}");
            assert_eq!(left(&layer).await, [10]);
        }
        for failures in 1..=10 {
            assert_eq!(send(&layer, FAILED).await.status(), FAILED);
            assert_eq!(left(&layer).await, [10 - failures], "{policy:?}");
        }
        assert_eq!(send(&layer, OK).await.status(), 429, "{policy:?}");
    }
}

#[tokio::test]
async fn head_decides_and_the_body_does_not() {
    let layer = failed_only(memory())
        .policy(window("logins"))
        .build()
        .unwrap();
    for (status, charged) in [(OK, 0), (FAILED, 1), (FAILED, 2), (OK, 2)] {
        let reply = send(&layer, status).await;
        assert_eq!(
            left(&layer).await,
            [10 - charged],
            "before the body is read"
        );
        match charged {
            1 => drop(reply),
            _ => drop(reply.into_body().collect().await.unwrap()),
        }
        assert_eq!(left(&layer).await, [10 - charged]);
    }
}

#[tokio::test]
async fn request_without_a_response_remains_charged() {
    let layer = failed_only(memory())
        .policy(window("logins"))
        .build()
        .unwrap();
    let mut cx = Context::from_waker(Waker::noop());

    let disconnected = service_fn(|_: Request<Full<Bytes>>| pending::<Result<Response<()>, ()>>());
    let mut call = Box::pin(layer.layer(disconnected).oneshot(request()));
    assert!(call.as_mut().poll(&mut cx).is_pending());
    drop(call);
    assert_eq!(left(&layer).await, [9]);

    let panics = service_fn(
        async |_: Request<Full<Bytes>>| -> Result<Response<()>, ()> { panic!("the handler's own") },
    );
    let mut call = Box::pin(layer.layer(panics).oneshot(request()));
    let polled = catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(&mut cx)));
    assert!(polled.is_err());
    drop(call);
    assert_eq!(left(&layer).await, [8]);

    let fails = service_fn(async |_: Request<Full<Bytes>>| Err::<Response<()>, _>("failed"));
    assert!(layer.layer(fails).oneshot(request()).await.is_err());
    assert_eq!(left(&layer).await, [7]);
}

#[tokio::test]
async fn policies_and_limiters_are_charged_separately() {
    let outer = RateLimitLayer::builder(memory(), Partition::identity())
        .policy(window("logins"))
        .policy(window("all"))
        .policy(window("not 5xx"))
        .charge_if(|response, policy| match policy.name() {
            "logins" => response.status == FAILED,
            "not 5xx" => !response.status.is_server_error(),
            _ => true,
        })
        .build()
        .unwrap();
    // A limit of 10 costs 3, so the fourth request is rejected by this one.
    let inner = RateLimitLayer::builder(memory(), Partition::identity())
        .policy(window("inner"))
        .cost(|_, _| 3)
        .charge_if(|response, _| response.headers.contains_key("content-length"))
        .build()
        .unwrap();
    let handler = |status| {
        service_fn(move |_: Request<_>| {
            let mut response = response(status);
            let headers = response.headers_mut();
            headers.insert("content-length", 6.into());
            std::future::ready(Ok::<_, Infallible>(response))
        })
    };
    for (status, expected) in [
        (OK, [10, 9, 9]),
        (FAILED, [9, 8, 8]),
        (StatusCode::BAD_GATEWAY, [9, 7, 8]),
        (StatusCode::TOO_MANY_REQUESTS, [9, 6, 7]),
    ] {
        let app = outer.layer(inner.layer(handler(status)));
        assert_eq!(app.oneshot(request()).await.unwrap().status(), status);
        assert_eq!(left(&outer).await, expected);
    }
    assert_eq!(left(&inner).await, [1], "the last one was rejected");
}

#[tokio::test]
async fn settlement_applies_to_charged_policies_alone() {
    let layer = RateLimitLayer::builder(memory(), Partition::identity())
        .policy(window("logins"))
        .policy(window("tokens"))
        .policy(window("free"))
        .cost(|_, policy| match policy.name() {
            "free" => 0,
            _ => 2,
        })
        .charge_if(|response, policy| policy.name() == "tokens" || response.status == FAILED)
        .settle_after_response()
        .build()
        .unwrap();
    for (status, expected) in [(OK, [10, 5, 10]), (FAILED, [5, 0, 5])] {
        let inner = service_fn(async |request: Request<Full<Bytes>>| {
            let settlement = Settlement::from_extensions(request.extensions());
            let settlement = settlement.unwrap().clone();
            let mut response = response(status);
            response.extensions_mut().insert(settlement);
            Ok::<_, Infallible>(response)
        });
        let reply = layer.layer(inner).oneshot(request()).await.unwrap();
        let settlement = Settlement::from_extensions(reply.extensions()).unwrap();
        settlement.set(5);
        drop(reply);
        assert_eq!(left(&layer).await, expected);
    }
    let only_condition = failed_only(memory())
        .policy(window("logins"))
        .build()
        .unwrap();
    let inner = service_fn(async |request: Request<Full<Bytes>>| {
        assert!(Settlement::from_extensions(request.extensions()).is_none());
        Ok::<_, Infallible>(response(OK))
    });
    only_condition
        .layer(inner)
        .oneshot(request())
        .await
        .unwrap();
}

#[tokio::test]
async fn rejections_over_grpc_count_by_their_http_status() {
    let ring = KeyRing::builder("acmepay", MemoryStore::new())
        .pepper(Pepper::random(1))
        .build()
        .unwrap();
    let keys = ApiKeyLayer::new(&ring).unwrap();
    let layer = failed_only(memory())
        .policy(window("logins"))
        .build()
        .unwrap();
    let inner = service_fn(async |_: Request<_>| Ok::<_, Infallible>(response(OK)));
    let app = layer.layer(keys.layer(inner));
    let mut request = request();
    *request.version_mut() = Version::HTTP_2;
    let grpc = "application/grpc".parse().unwrap();
    request.headers_mut().insert("content-type", grpc);
    let rejected = app.oneshot(request).await.unwrap();
    assert_eq!(rejected.status(), 200);
    assert_eq!(rejected.headers()["grpc-status"], "16");
    assert_eq!(left(&layer).await, [9]);
}

#[tokio::test]
async fn cached_responses_count_like_others() {
    for (charged_status, expected) in [(OK, 8), (FAILED, 10)] {
        let layer = RateLimitLayer::builder(memory(), Partition::identity())
            .policy(window("requests"))
            .charge_if(move |response, _| response.status == charged_status)
            .build()
            .unwrap();
        let inner = service_fn(async |_: Request<_>| {
            let mut response = response(OK);
            let fresh = "max-age=60".parse().unwrap();
            response.headers_mut().insert("cache-control", fresh);
            Ok::<_, Infallible>(response)
        });
        let app = layer.layer(CacheLayer::new(memory()).layer(inner));
        for _ in 0..2 {
            let reply = app.clone().oneshot(request()).await.unwrap();
            drop(reply.into_body().collect().await.unwrap());
        }
        assert_eq!(left(&layer).await, [expected]);
    }
}

#[tokio::test]
async fn remote_and_local_stores_are_refunded() {
    let slow = failed_only(SlowStore::over(memory()))
        .policy(window("logins"))
        .build()
        .unwrap();
    let clock = ManualClock::default();
    let local = OnStoreError::local(MemoryStore::with_clock(clock.clone()), 1);
    let failing = failed_only(Server::new(Says::Later, &clock))
        .policy(window("logins"))
        .on_store_error(local)
        .build()
        .unwrap();
    for layer in [slow, failing] {
        for _ in 0..30 {
            assert_eq!(send(&layer, OK).await.status(), OK);
        }
        for _ in 0..10 {
            assert_eq!(send(&layer, FAILED).await.status(), FAILED);
        }
        assert_eq!(send(&layer, OK).await.status(), 429);
    }
}

#[tokio::test]
async fn shadow_policy_is_refunded_and_a_denial_in_shadow_mode_is_not() {
    let shadow = Policy::fixed_window("shadow", Quota::per_minute(2)).unwrap();
    let layer = failed_only(memory())
        .policy(window("logins"))
        .policy(shadow.shadow())
        .build()
        .unwrap();
    for (status, expected) in [
        (OK, [10, 2]),
        (FAILED, [9, 1]),
        (FAILED, [8, 0]),
        (OK, [8, 0]),
        (FAILED, [7, 0]),
    ] {
        assert_eq!(send(&layer, status).await.status(), status);
        assert_eq!(left(&layer).await, expected);
    }
}

#[tokio::test]
async fn penalty_counts_denials_and_not_refunded_requests() {
    let layer = failed_only(memory())
        .policy(window("logins"))
        .penalty(Penalty::after(1))
        .build()
        .unwrap();
    for _ in 0..30 {
        assert_eq!(send(&layer, OK).await.status(), OK);
    }
    for _ in 0..10 {
        assert_eq!(send(&layer, FAILED).await.status(), FAILED);
    }
    assert_eq!(send(&layer, OK).await.status(), 429);
    let banned = send(&layer, OK).await;
    assert_eq!(banned.headers()["retry-after"], "600");
}

/// A store that can neither charge nor refund.
#[derive(Debug)]
struct TakesOnly(MemoryStore);

impl RateLimitStore for TakesOnly {
    fn keys(&self) -> &StoreKeys {
        RateLimitStore::keys(&self.0)
    }

    fn take(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions> {
        self.0.take(partition, charges)
    }

    fn peek(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions> {
        self.0.peek(partition, charges)
    }

    fn refund(&self, _: &StoreKey, _: &[Refund<'_>]) -> StoreFuture<()> {
        StoreFuture::failed(StoreErrorKind::Misconfigured)
    }

    fn reset(&self, partition: &StoreKey, policies: &[&Policy]) -> StoreFuture<()> {
        self.0.reset(partition, policies)
    }

    fn can_settle(&self) -> bool {
        false
    }
}

#[test]
fn store_without_refunds_is_rejected() {
    let layer = failed_only(TakesOnly(memory())).policy(window("logins"));
    assert_eq!(layer.build().unwrap_err().option(), "charge_if");
}

#[tokio::test]
async fn concurrent_requests_reserve_the_quota_until_their_responses() {
    for policy in policies() {
        let layer = failed_only(memory())
            .policy(policy.clone())
            .build()
            .unwrap();
        let mut calls: Vec<_> = (0..30).map(|_| start(&layer)).collect();
        let mut rejected = 0;
        calls.retain_mut(|(call, _)| match poll(call) {
            Poll::Ready(status) => {
                assert_eq!(status, 429);
                rejected += 1;
                false
            }
            Poll::Pending => true,
        });
        assert_eq!((calls.len(), rejected), (10, 20), "{policy:?}");
        for (at, (mut call, sender)) in calls.into_iter().enumerate() {
            let status = if at < 4 { FAILED } else { OK };
            sender.send(status).unwrap();
            assert_eq!(poll(&mut call), Poll::Ready(status));
        }
        assert_eq!(left(&layer).await, [6], "{policy:?}");
    }
}

/// A step of a client.
#[derive(Clone, Debug)]
enum Action {
    Start,
    /// The response of the request at this position among those in flight.
    Respond(usize, bool),
    Disconnect(usize),
    Advance(u64),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        5 => Just(Action::Start),
        3 => (0..20_usize, any::<bool>()).prop_map(|(at, failed)| Action::Respond(at, failed)),
        1 => (0..20_usize).prop_map(Action::Disconnect),
        1 => (1..7_u64).prop_map(Action::Advance),
    ]
}

proptest! {
    /// The model: a count per window of 10 seconds, of responses that are charged and of requests
    /// in flight.
    #[test]
    fn charged_responses_never_exceed_the_limit(
        limit in 1..6_u64,
        actions in vec(action(), 1..80),
    ) {
        let clock = ManualClock::default();
        let quota = Quota::new(limit, Duration::from_secs(10));
        let layer = failed_only(MemoryStore::with_clock(clock.clone()))
            .policy(Policy::aligned_window("logins", quota).unwrap())
            .build()
            .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let start_secs = portcullis::Clock::now(&clock).as_micros() / 1_000_000;
        let (mut elapsed, mut charged, mut calls) = (0, std::collections::HashMap::new(), vec![]);
        for action in actions {
            let current = (start_secs + elapsed) / 10;
            match action {
                Action::Start => {
                    let (mut call, sender) = start(&layer);
                    let polled = poll(&mut call);
                    let in_flight = calls.iter().filter(|(_, _, window)| *window == current);
                    let used = charged.get(&current).copied().unwrap_or(0);
                    match in_flight.count() as u64 + used < limit {
                        true => {
                            prop_assert_eq!(polled, Poll::Pending);
                            calls.push((call, sender, current));
                        }
                        false => {
                            prop_assert_eq!(polled, Poll::Ready(StatusCode::TOO_MANY_REQUESTS));
                        }
                    }
                }
                Action::Respond(at, failed) if at < calls.len() => {
                    let (mut call, sender, window) = calls.remove(at);
                    sender.send(if failed { FAILED } else { OK }).unwrap();
                    prop_assert!(poll(&mut call).is_ready());
                    *charged.entry(window).or_insert(0) += u64::from(failed);
                }
                Action::Disconnect(at) if at < calls.len() => {
                    let (_, _, window) = calls.remove(at);
                    *charged.entry(window).or_insert(0) += 1;
                }
                Action::Respond(..) | Action::Disconnect(_) => {}
                Action::Advance(secs) => {
                    elapsed += secs;
                    clock.advance(Duration::from_secs(secs));
                }
            }
            prop_assert!(charged.values().all(|count| *count <= limit));
            let current = (start_secs + elapsed) / 10;
            let in_flight = calls.iter().filter(|(_, _, window)| *window == current);
            let used = charged.get(&current).copied().unwrap_or(0) + in_flight.count() as u64;
            prop_assert_eq!(runtime.block_on(left(&layer)), [limit - used]);
        }
    }
}
