//! Behavior of a leaky bucket as a queue, as seen by the waiting requests.

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use portcullis::{
    Clock, Identity, ManualClock, ResponseBody,
    outcome::{RateLimitDecision, RateLimitOutcome, RecordHandle},
    rate_limit::{
        OnStoreError, Partition, Policy, Quota, RateLimitFields, RateLimitLayer,
        RateLimitLayerBuilder,
    },
    store::MemoryStore,
};
use proptest::{collection::vec, prelude::*};
use tokio::sync::OwnedSemaphorePermit;
use tokio::{sync::Semaphore, task::JoinHandle};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::support::{
    get,
    hands::{Hands, let_all_run},
    header,
    slow_store::SlowStore,
};

type Reply = Response<ResponseBody<Full<Bytes>>>;
type Call = Pin<Box<dyn Future<Output = Result<Reply, Infallible>> + Send>>;

const MILLI: Duration = Duration::from_millis(1);

/// Admits ten requests per second, each after a wait of at most `max_wait`.
fn ten_per_second(max_wait: Duration) -> Policy {
    Policy::leaky_queue("steady", Quota::per_second(10), max_wait).unwrap()
}

/// A limiter, and when requests passed it.
struct Rig {
    hands: Hands,
    layer: RateLimitLayer,
    passed: Arc<Mutex<Vec<u64>>>,
}

impl Rig {
    fn new(build: impl FnOnce(RateLimitLayerBuilder) -> RateLimitLayerBuilder) -> Self {
        let hands = Hands::default();
        let store = MemoryStore::with_clock(hands.clock.clone());
        let builder = RateLimitLayer::builder(store, Partition::identity());
        Self::of(hands, build(builder))
    }

    fn slow(policy: Policy) -> Self {
        let hands = Hands::default();
        let store = SlowStore::over(MemoryStore::with_clock(hands.clock.clone()));
        let builder = RateLimitLayer::builder(store, Partition::identity());
        Self::of(hands, builder.policy(policy))
    }

    fn of(hands: Hands, builder: RateLimitLayerBuilder) -> Self {
        Self {
            layer: builder.runtime(hands.clone()).build().unwrap(),
            hands,
            passed: Arc::default(),
        }
    }

    fn request(&self) -> Request<Full<Bytes>> {
        let mut request = get("/");
        let identity = Identity::builder("k1").build();
        request.extensions_mut().insert(identity);
        request
    }

    fn call_with(&self, request: Request<Full<Bytes>>) -> Call {
        let (passed, clock) = (Arc::clone(&self.passed), self.hands.clock.clone());
        let inner = service_fn(move |_: Request<Full<Bytes>>| {
            passed.lock().unwrap().push(clock.now().as_micros());
            async { Ok::<_, Infallible>(Response::new(Full::from("served"))) }
        });
        Box::pin(self.layer.layer(inner).oneshot(request))
    }

    fn call(&self) -> Call {
        self.call_with(self.request())
    }

    /// Sends a request on a task of its own.
    async fn send(&self) -> JoinHandle<Result<Reply, Infallible>> {
        let call = tokio::spawn(self.call());
        let_all_run().await;
        call
    }

    /// Returns when requests passed so far, in milliseconds from the start.
    fn passed_at(&self) -> Vec<u64> {
        let start = ManualClock::default().now().as_micros();
        let passed = self.passed.lock().unwrap();
        passed.iter().map(|at| (at - start) / 1_000).collect()
    }
}

fn poll(call: &mut Call) -> Poll<Result<Reply, Infallible>> {
    call.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test]
async fn requests_that_come_at_once_go_on_one_by_one_at_the_rate() {
    let rig = Rig::new(|layer| layer.policy(ten_per_second(MILLI * 1_000)));
    let mut calls = Vec::new();
    for _ in 0..5 {
        calls.push(rig.send().await);
    }
    assert_eq!(rig.passed_at(), [0]);
    for _ in 0..5 {
        rig.hands.advance(MILLI * 99).await;
        rig.hands.advance(MILLI).await;
    }
    assert_eq!(rig.passed_at(), [0, 100, 200, 300, 400]);
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().status(), 200);
    }
}

#[tokio::test]
async fn rejects_requests_beyond_max_wait_without_charging() {
    let rig = Rig::new(|layer| {
        let layer = layer.policy(ten_per_second(MILLI * 1_200));
        layer.fields(RateLimitFields::Draft11)
    });
    let _waiting: Vec<_> = [rig.send().await, rig.send().await].into();
    let mut calls: Vec<Call> = (0..11).map(|_| rig.call()).collect();
    calls.iter_mut().for_each(|call| drop(poll(call)));
    for _ in 0..3 {
        let denied = rig.call().await.unwrap();
        assert_eq!(denied.status(), 429);
        assert_eq!(header(denied.headers(), "retry-after"), Some("1"));
        assert_eq!(
            header(denied.headers(), "ratelimit"),
            Some("\"steady\";r=0;t=1")
        );
        assert_eq!(
            header(denied.headers(), "ratelimit-policy"),
            Some("\"steady\";q=13;w=2")
        );
    }
    rig.hands.advance(MILLI * 100).await;
    assert!(poll(&mut rig.call()).is_pending());
}

#[tokio::test]
async fn record_contains_the_queue_delay() {
    let rig = Rig::new(|layer| layer.policy(ten_per_second(MILLI * 1_000)));
    for millis in [0, 100, 200] {
        let record = RecordHandle::default();
        let mut request = rig.request();
        request.extensions_mut().insert(record.clone());
        let call = tokio::spawn(rig.call_with(request));
        let_all_run().await;
        let outcome = record.read(|slots| slots.rate_limits()[0].clone());
        assert_eq!(outcome.decision, RateLimitDecision::Allowed);
        assert_eq!(outcome.delayed, MILLI * millis);
        if millis == 200 {
            rig.hands.advance(MILLI * millis).await;
            let response = call.await.unwrap().unwrap();
            assert_eq!(response.extensions().get(), Some(&outcome));
        }
    }
}

#[tokio::test]
async fn when_a_waiter_leaves_all_behind_it_move_up_and_its_place_is_free() {
    for slow in [false, true] {
        let policy = ten_per_second(MILLI * 300);
        let rig = match slow {
            false => Rig::new(|layer| layer.policy(policy)),
            true => Rig::slow(policy),
        };
        rig.send().await;
        let leaves = rig.send().await;
        let _second = rig.send().await;
        let _third = rig.send().await;
        assert_eq!(rig.call().await.unwrap().status(), 429, "{slow}");
        leaves.abort();
        let_all_run().await;
        let _fourth = rig.send().await;
        assert_eq!(rig.call().await.unwrap().status(), 429, "{slow}");
        for _ in 0..3 {
            rig.hands.advance(MILLI * 100).await;
        }
        assert_eq!(rig.passed_at(), [0, 100, 200, 300], "{slow}");
    }
}

#[tokio::test]
async fn when_all_waiters_leave_in_the_order_they_came_the_queue_is_empty() {
    let rig = Rig::new(|layer| layer.policy(ten_per_second(MILLI * 1_000)));
    let _first = rig.send().await;
    let mut calls: Vec<Call> = (0..10).map(|_| rig.call()).collect();
    calls
        .iter_mut()
        .for_each(|call| assert!(poll(call).is_pending()));
    for call in calls {
        drop(call);
    }
    let next = rig.send().await;
    rig.hands.advance(MILLI * 100).await;
    assert!(next.is_finished());
    assert_eq!(rig.passed_at(), [0, 100]);
}

#[tokio::test]
async fn a_waiter_that_leaves_takes_back_what_every_policy_was_charged() {
    let window = Policy::fixed_window("window", Quota::per_minute(2)).unwrap();
    let rig = Rig::new(|layer| layer.policy(ten_per_second(MILLI * 1_000)).policy(window));
    let _first = rig.send().await;
    for _ in 0..20 {
        let mut leaves = rig.call();
        assert!(poll(&mut leaves).is_pending());
    }
    let mut stays = rig.call();
    assert!(poll(&mut stays).is_pending());
    assert_eq!(rig.call().await.unwrap().status(), 429);
}

#[tokio::test]
async fn denials_by_other_policies_take_no_queue_position() {
    let window = Policy::fixed_window("window", Quota::new(1, MILLI * 50)).unwrap();
    let rig = Rig::new(|layer| layer.policy(ten_per_second(MILLI * 1_000)).policy(window));
    let _first = rig.send().await;
    for _ in 0..20 {
        assert_eq!(rig.call().await.unwrap().status(), 429);
    }
    rig.hands.advance(MILLI * 50).await;
    let _second = rig.send().await;
    rig.hands.advance(MILLI * 50).await;
    assert_eq!(rig.passed_at(), [0, 100]);
}

#[tokio::test]
async fn the_slower_of_two_queues_is_waited_for() {
    let slow = Policy::leaky_queue("slow", Quota::per_second(2), MILLI * 5_000).unwrap();
    let rig = Rig::new(|layer| layer.policy(ten_per_second(MILLI * 1_000)).policy(slow));
    let _calls = [rig.send().await, rig.send().await];
    rig.hands.advance(MILLI * 499).await;
    assert_eq!(rig.passed_at(), [0]);
    rig.hands.advance(MILLI).await;
    assert_eq!(rig.passed_at(), [0, 500]);
}

#[tokio::test]
async fn free_requests_and_shadow_queues_do_not_wait() {
    let rig = Rig::new(|layer| {
        let layer = layer.policy(ten_per_second(MILLI * 1_000));
        layer.cost(|head, _| u64::from(head.uri.path() != "/free"))
    });
    rig.call().await.unwrap();
    let mut request = rig.request();
    *request.uri_mut() = "/free".parse().unwrap();
    assert!(poll(&mut rig.call_with(request)).is_ready());

    let rig = Rig::new(|layer| layer.policy(ten_per_second(MILLI * 1_000).shadow()));
    for _ in 0..20 {
        assert!(poll(&mut rig.call()).is_ready());
    }
}

#[tokio::test]
async fn rejects_requests_beyond_max_waiters_without_charging() {
    let rig = Rig::new(|layer| layer.policy(ten_per_second(MILLI * 1_000)).max_waiters(2));
    let _calls = [rig.send().await, rig.send().await, rig.send().await];
    for _ in 0..3 {
        let crowded = rig.call().await.unwrap();
        assert_eq!(crowded.status(), 503);
        assert_eq!(header(crowded.headers(), "retry-after"), Some("1"));
        let outcome: &RateLimitOutcome = crowded.extensions().get().unwrap();
        assert_eq!(outcome.decision, RateLimitDecision::Denied);
    }
    rig.hands.advance(MILLI * 100).await;
    let _third = rig.send().await;
    rig.hands.advance(MILLI * 200).await;
    assert_eq!(rig.passed_at(), [0, 100, 300, 300]);
}

#[tokio::test]
async fn local_fallback_store_delays_queued_requests() {
    let (hands, failing) = (Hands::default(), crate::support::hands::Failing::default());
    let local = OnStoreError::local(MemoryStore::with_clock(hands.clock.clone()), 2);
    let builder = RateLimitLayer::builder(failing, Partition::identity()).on_store_error(local);
    let rig = Rig::of(hands, builder.policy(ten_per_second(MILLI * 1_000)));
    let _calls = [rig.send().await, rig.send().await];
    rig.hands.advance(MILLI * 199).await;
    assert_eq!(rig.passed_at(), [0]);
    rig.hands.advance(MILLI).await;
    assert_eq!(rig.passed_at(), [0, 200]);
}

/// A service that holds a permit from when it is ready until it is called, and is never ready
/// without one.
struct Permits {
    all: Arc<Semaphore>,
    own: Option<OwnedSemaphorePermit>,
}

impl Clone for Permits {
    fn clone(&self) -> Self {
        let all = Arc::clone(&self.all);
        Self { all, own: None }
    }
}

impl Service<Request<Full<Bytes>>> for Permits {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.own.is_none() {
            self.own = Arc::clone(&self.all).try_acquire_owned().ok();
        }
        match self.own {
            Some(_) => Poll::Ready(Ok(())),
            None => Poll::Pending,
        }
    }

    fn call(&mut self, _: Request<Full<Bytes>>) -> Self::Future {
        assert!(self.own.take().is_some(), "called without being ready");
        ready(Ok(Response::new(Full::from("served"))))
    }
}

#[tokio::test]
async fn waiting_requests_hold_no_permit_of_the_inner_service() {
    let rig = Rig::new(|layer| layer.policy(ten_per_second(MILLI * 1_000)));
    let all = Arc::new(Semaphore::new(1));
    let permits = Permits {
        all: Arc::clone(&all),
        own: None,
    };
    let mut service = rig.layer.layer(permits);
    let mut call = async || service.ready().await.unwrap().call(rig.request());
    call().await.await.unwrap();
    let mut waits: Call = Box::pin(call().await);
    assert!(poll(&mut waits).is_pending());
    assert_eq!(all.available_permits(), 1);

    // Its turn has come, but the service is not ready: the permit is taken by another request.
    let taken = Arc::clone(&all).try_acquire_owned().unwrap();
    rig.hands.advance(MILLI * 100).await;
    assert!(poll(&mut waits).is_pending());
    drop(taken);
    assert!(poll(&mut waits).is_ready());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn canceled_waiters_never_raise_the_rate(
        burst in 1_u64..4,
        steps in vec((0_u64..250, 0_u8..4, any::<prop::sample::Index>()), 1..60),
    ) {
        let quota = Quota::per_second(10).burst(burst);
        let policy = Policy::leaky_queue("steady", quota, MILLI * 700).unwrap();
        let rig = Rig::new(|layer| layer.policy(policy));
        let mut waiting: Vec<Call> = Vec::new();
        let settle = |waiting: &mut Vec<Call>| waiting.retain_mut(|call| poll(call).is_pending());
        for (pause, action, which) in steps {
            for _ in 0..pause {
                rig.hands.clock.advance(MILLI);
                settle(&mut waiting);
            }
            if action == 0 && !waiting.is_empty() {
                drop(waiting.remove(which.index(waiting.len())));
            } else {
                waiting.push(rig.call());
            }
            settle(&mut waiting);
            // Each waiting request has a slot, and has its turn within the longest wait.
            prop_assert!(waiting.len() <= 7);
        }
        let left = waiting.len();
        let before = rig.passed_at().len();
        for _ in 0..700 {
            rig.hands.clock.advance(MILLI);
            settle(&mut waiting);
        }
        prop_assert_eq!(rig.passed_at().len(), before + left);
        let passed = rig.passed_at();
        for (from, began) in passed.iter().enumerate() {
            for (to, then) in passed.iter().enumerate().skip(from) {
                let between = (to - from) as u64;
                prop_assert!(between < burst + (then - began) / 100);
            }
        }
    }
}
