//! The actual cost of a request is charged once it is known, for every outcome of the request.

use std::{
    convert::Infallible,
    future::{Future, pending},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use portcullis::{
    Identity, ManualClock, RequestHead, ResponseBody,
    rate_limit::{Partition, Policy, Quota, RateLimitLayer, Settlement},
    store::MemoryStore,
};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{get, hands::let_all_run, slow_store::SlowStore};

type Reply = Response<ResponseBody<Full<Bytes>>>;
type Call = Pin<Box<dyn Future<Output = Result<Reply, Infallible>> + Send>>;

/// The outcome of a request after the handler has reported its cost.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Body,
    BodyDropped,
    FutureDropped,
    Panic,
}

const ENDS: [End; 4] = [End::Body, End::BodyDropped, End::FutureDropped, End::Panic];

fn quota() -> Quota {
    Quota::new(100, Duration::from_secs(10))
}

fn policies() -> [Policy; 6] {
    [
        Policy::fixed_window("units", quota()),
        Policy::aligned_window("units", quota()),
        Policy::sliding_window("units", quota()),
        Policy::sliding_log("units", quota()),
        Policy::token_bucket("units", quota()),
        Policy::leaky_bucket("units", quota()),
    ]
    .map(Result::unwrap)
}

struct Rig {
    clock: ManualClock,
    layer: RateLimitLayer,
}

impl Rig {
    fn new(policy: Policy) -> Self {
        let clock = ManualClock::default();
        let store = MemoryStore::with_clock(clock.clone());
        let layer = RateLimitLayer::builder(store, Partition::identity())
            .policy(policy)
            .cost(|_, _| 10)
            .settle_after_response()
            .build();
        Self {
            clock,
            layer: layer.unwrap(),
        }
    }

    fn request() -> Request<Full<Bytes>> {
        let mut request = get("/");
        request
            .extensions_mut()
            .insert(Identity::builder("k1").build());
        request
    }

    fn call(&self, cost: Option<u64>, end: End) -> Call {
        let handler = move |request: Request<Full<Bytes>>| {
            let settlement = Settlement::from_extensions(request.extensions())
                .unwrap()
                .clone();
            async move {
                if let Some(cost) = cost {
                    settlement.set(cost);
                }
                match end {
                    End::FutureDropped => pending().await,
                    End::Panic => panic!("the handler's own"),
                    End::Body | End::BodyDropped => {}
                }
                Ok::<_, Infallible>(Response::new(Full::from("served")))
            }
        };
        Box::pin(
            self.layer
                .layer(service_fn(handler))
                .oneshot(Self::request()),
        )
    }

    async fn left(&self) -> u64 {
        let request = Self::request();
        let peek = self.layer.handle();
        let outcome = peek.peek(&RequestHead::from(&request)).await.unwrap();
        outcome.unwrap().policies()[0].remaining
    }

    /// Sends a request that truly costs this much, and lets it end so.
    async fn send(&self, cost: Option<u64>, end: End) {
        let mut call = self.call(cost, end);
        let mut cx = Context::from_waker(Waker::noop());
        let polled = catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(&mut cx)));
        match end {
            End::FutureDropped => {
                assert!(polled.unwrap().is_pending());
                assert_eq!(self.left().await, 90);
            }
            End::Panic => drop(polled.unwrap_err()),
            End::Body | End::BodyDropped => {
                let std::task::Poll::Ready(Ok(reply)) = polled.unwrap() else {
                    panic!("it is pending")
                };
                assert_eq!(
                    self.left().await,
                    90,
                    "not settled before the body has ended"
                );
                let mut body = std::pin::pin!(reply.into_body());
                if end == End::Body {
                    while body.frame().await.is_some() {}
                    let settled = self.left().await;
                    assert_eq!(
                        settled,
                        100 - cost.unwrap_or(10),
                        "settled at the end of the body"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn the_true_cost_is_charged_once_however_the_request_ends() {
    for policy in policies() {
        for end in ENDS {
            for cost in [Some(0), Some(3), Some(10), Some(64), None] {
                let rig = Rig::new(policy.clone());
                rig.send(cost, end).await;
                let left = 100 - cost.unwrap_or(10);
                assert_eq!(rig.left().await, left, "{policy:?}, {end:?}, {cost:?}");
            }
        }
    }
}

#[tokio::test]
async fn usage_beyond_the_quota_delays_later_requests() {
    for policy in policies() {
        let rig = Rig::new(policy.clone());
        rig.send(Some(150), End::BodyDropped).await;
        assert_eq!(rig.left().await, 0);
        let denied = rig.call(None, End::Body).await.unwrap();
        assert_eq!(denied.status(), 429, "{policy:?}");
        // The outstanding charge is at most twice the limit of a window.
        rig.clock.advance(Duration::from_secs(21));
        let admitted = rig.call(None, End::Body).await.unwrap();
        assert_eq!(admitted.status(), 200, "{policy:?}");
    }
}

#[tokio::test]
async fn settlement_refunds_are_not_credited_to_a_later_window() {
    for policy in policies() {
        let rig = Rig::new(policy.clone());
        let late = rig.call(Some(0), End::Body).await.unwrap();
        rig.clock.advance(Duration::from_secs(21));
        rig.send(Some(100), End::BodyDropped).await;
        assert_eq!(rig.left().await, 0);
        drop(late);
        assert_eq!(rig.left().await, 0, "{policy:?}");
    }
}

#[tokio::test]
async fn settles_each_policy_and_limiter_separately() {
    let limiter = |names: [&str; 2]| {
        let builder = RateLimitLayer::builder(MemoryStore::new(), Partition::identity());
        let builder = names.into_iter().fold(builder, |builder, name| {
            builder.policy(Policy::aligned_window(name, Quota::per_day(100)).unwrap())
        });
        builder.settle_after_response().build().unwrap()
    };
    let (outer, inner) = (
        limiter(["requests", "tokens"]),
        limiter(["other", "tokens"]),
    );
    let handler = service_fn(async |request: Request<Full<Bytes>>| {
        let settlement = Settlement::from_extensions(request.extensions()).unwrap();
        settlement.add_for("tokens", 20);
        settlement.add_for("tokens", 22);
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    let reply = outer.layer(inner.layer(handler)).oneshot(Rig::request());
    drop(reply.await.unwrap());
    for layer in [outer, inner] {
        let request = Rig::request();
        let outcome = layer.handle().peek(&RequestHead::from(&request)).await;
        let outcome = outcome.unwrap().unwrap();
        let left = outcome.policies().iter().map(|policy| policy.remaining);
        assert_eq!(left.collect::<Vec<_>>(), [99, 58]);
    }
}

#[tokio::test]
async fn remote_store_is_settled_in_the_background() {
    let memory = MemoryStore::with_clock(ManualClock::default());
    let store = SlowStore::over(memory.clone());
    let policy = Policy::fixed_window("units", quota()).unwrap();
    let layer = RateLimitLayer::builder(store, Partition::identity())
        .policy(policy)
        .settle_after_response()
        .build()
        .unwrap();
    for cost in [0, 7] {
        let handler = service_fn(move |request: Request<Full<Bytes>>| {
            Settlement::from_extensions(request.extensions())
                .unwrap()
                .set(cost);
            async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())) }
        });
        drop(layer.layer(handler).oneshot(Rig::request()).await.unwrap());
        let_all_run().await;
    }
    let request = Rig::request();
    let left = layer.handle().peek(&RequestHead::from(&request)).await;
    assert_eq!(left.unwrap().unwrap().policies()[0].remaining, 93);
}

#[tokio::test]
async fn guarded_body_reports_the_same_size_and_end() {
    let rig = Rig::new(policies()[0].clone());
    let reply = rig.call(None, End::Body).await.unwrap();
    let body = reply.into_body();
    assert_eq!(body.size_hint().exact(), Some(6));
    assert!(!body.is_end_stream());
    assert_eq!(body.collect().await.unwrap().to_bytes(), "served");
}
