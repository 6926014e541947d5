//! Policies that are selected per request, and the decisions that handlers receive.

use std::{convert::Infallible, future::Future, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use portcullis::{
    ClientAddrResolver, Identity, ManualClock, RequestHead, ResponseBody,
    outcome::RateLimitOutcome,
    rate_limit::{
        OnStoreError, Partition, Policy, PolicyList, Quota, RateLimitFields, RateLimitLayer,
    },
    store::MemoryStore,
};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{get, hands::Failing, header, slow_store::SlowStore, strict::YieldOnce};

fn window(name: &str, limit: u64) -> Policy {
    Policy::aligned_window(name, Quota::per_day(limit)).unwrap()
}

fn request(uri: &str) -> Request<Full<Bytes>> {
    let mut request = get(uri);
    let caller = Identity::builder("k1").build();
    request.extensions_mut().insert(caller);
    request
}

async fn send(layer: &RateLimitLayer, uri: &str) -> Response<ResponseBody<Full<Bytes>>> {
    let inner = service_fn(async |_: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    layer.layer(inner).oneshot(request(uri)).await.unwrap()
}

/// Chooses by the path, a poll later.
fn by_path(head: &RequestHead<'_>) -> impl Future<Output = Option<PolicyList>> + Send + use<> {
    let path = head.uri.path().to_owned();
    async move {
        YieldOnce::new().await;
        match path.as_str() {
            "/none" => Some(PolicyList::new([]).unwrap()),
            "/two" => Some(PolicyList::new([window("two", 2), window("nine", 9)]).unwrap()),
            _ => None,
        }
    }
}

#[tokio::test]
async fn policies_may_be_chosen_by_a_function_that_waits() {
    for slow in [false, true] {
        let partition = Partition::identity();
        let builder = match slow {
            false => RateLimitLayer::builder(MemoryStore::new(), partition),
            true => RateLimitLayer::builder(SlowStore::default(), partition),
        };
        let layer = builder
            .policy(window("one", 1))
            .policies_with(by_path)
            .fields(RateLimitFields::Draft11)
            .build()
            .unwrap();
        for _ in 0..5 {
            assert_eq!(send(&layer, "/none").await.status(), 200);
        }
        for left in [1, 0] {
            let reply = send(&layer, "/two").await;
            assert_eq!(reply.status(), 200);
            let fields = header(reply.headers(), "ratelimit").unwrap();
            assert!(
                fields.starts_with(&format!("\"two\";r={left};")),
                "{fields}"
            );
        }
        assert_eq!(send(&layer, "/two").await.status(), 429);
        assert_eq!(send(&layer, "/other").await.status(), 200);
        assert_eq!(send(&layer, "/other").await.status(), 429);
    }
}

#[tokio::test]
async fn chosen_policies_are_divided_where_a_local_store_decides() {
    let layer = RateLimitLayer::builder(Failing::default(), Partition::identity())
        .policies_with(by_path)
        .on_store_error(OnStoreError::local(MemoryStore::new(), 2))
        .build()
        .unwrap();
    assert_eq!(send(&layer, "/two").await.status(), 200);
    assert_eq!(send(&layer, "/two").await.status(), 429);
}

#[tokio::test]
async fn a_request_whose_policies_are_chosen_and_whose_address_is_not_known_is_a_500() {
    let by_addr = Partition::client_addr(ClientAddrResolver::default());
    let layer = RateLimitLayer::builder(MemoryStore::new(), by_addr)
        .policies_with(by_path)
        .build()
        .unwrap();
    assert_eq!(send(&layer, "/two").await.status(), 500);
    assert_eq!(send(&layer, "/none").await.status(), 200);
}

#[tokio::test]
async fn expose_outcome_passes_the_remaining_quota_to_the_handler() {
    for tells in [false, true] {
        let builder = RateLimitLayer::builder(MemoryStore::new(), Partition::identity())
            .policy(window("few", 3));
        let builder = if tells {
            builder.expose_outcome()
        } else {
            builder
        };
        let layer = builder.build().unwrap();
        let inner = service_fn(async |request: Request<Full<Bytes>>| {
            let outcome: Option<&RateLimitOutcome> = request.extensions().get();
            let left = outcome.map(|outcome| outcome.policies()[0].remaining);
            Ok::<_, Infallible>(Response::new(Full::from(format!("{left:?}"))))
        });
        let reply = layer.layer(inner).oneshot(request("/")).await.unwrap();
        let told: Option<&RateLimitOutcome> = reply.extensions().get();
        assert_eq!(told.is_some(), tells);
        let expected = if tells { "Some(2)" } else { "None" };
        assert_eq!(crate::support::text(reply).await, expected);
    }
}

#[tokio::test]
async fn handle_peeks_charges_and_resets_limits() {
    let layer = RateLimitLayer::builder(MemoryStore::new(), Partition::identity())
        .policy(window("few", 5))
        .build()
        .unwrap();
    let (limits, request) = (layer.handle(), request("/"));
    let head = RequestHead::from(&request);
    let left = async || limits.peek(&head).await.unwrap().unwrap().policies()[0].remaining;
    assert_eq!((left().await, left().await), (5, 5));
    limits.charge(&head, 3).await.unwrap();
    assert_eq!(left().await, 2);
    limits.charge(&head, 100).await.unwrap();
    assert_eq!(left().await, 0);
    assert_eq!(send(&layer, "/").await.status(), 429);
    limits.reset(&head).await.unwrap();
    assert_eq!(left().await, 5);
    let anonymous = get("/");
    let nothing = limits.peek(&RequestHead::from(&anonymous)).await.unwrap();
    assert_eq!(nothing, None);
}

#[tokio::test]
async fn handle_refunds_at_most_the_taken_cost() {
    let clock = ManualClock::default();
    let store = MemoryStore::with_clock(clock.clone());
    let ten = Duration::from_secs(10);
    let layer = RateLimitLayer::builder(store, Partition::identity())
        .policy(Policy::fixed_window("few", Quota::new(10, ten)).unwrap())
        .policy(Policy::token_bucket("more", Quota::new(20, ten)).unwrap())
        .build()
        .unwrap();
    let (limits, request) = (layer.handle(), request("/"));
    let head = RequestHead::from(&request);
    let left = async || {
        let outcome = limits.peek(&head).await.unwrap().unwrap();
        let policies = outcome.policies();
        [policies[0].remaining, policies[1].remaining]
    };
    let take = async |cost| limits.take(&head, cost).await.unwrap().unwrap();
    let taken = take(8).await;
    assert!(taken.is_admitted());
    assert_eq!(
        (taken.outcome().policies()[0].remaining, left().await),
        (2, [2, 12])
    );
    let denied = take(3).await;
    assert_eq!((denied.is_admitted(), left().await), (false, [2, 12]));
    limits.refund(denied, 3).await.unwrap();
    assert_eq!(left().await, [2, 12]);
    limits.refund(taken, 5).await.unwrap();
    assert_eq!(left().await, [7, 17]);
    let taken = take(2).await;
    limits.refund(taken, u64::MAX).await.unwrap();
    assert_eq!(left().await, [7, 17]);

    let late = take(5).await;
    clock.advance(ten);
    assert!(take(10).await.is_admitted());
    limits.refund(late, 5).await.unwrap();
    assert_eq!(left().await, [0, 10]);
    assert!(
        limits
            .take(&RequestHead::from(&get("/")), 1)
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn handle_take_returns_the_queue_delay() {
    let clock = ManualClock::default();
    let store = MemoryStore::with_clock(clock);
    let second = Duration::from_secs(1);
    let layer = RateLimitLayer::builder(store, Partition::identity())
        .policy(Policy::leaky_queue("queue", Quota::per_second(1), 2 * second).unwrap())
        .build()
        .unwrap();
    let (limits, request) = (layer.handle(), request("/"));
    let head = RequestHead::from(&request);
    for wait in [0, 1, 2] {
        let taken = limits.take(&head, 1).await.unwrap().unwrap();
        assert_eq!(
            (taken.is_admitted(), taken.outcome().delayed),
            (true, wait * second)
        );
    }
    assert!(!limits.take(&head, 1).await.unwrap().unwrap().is_admitted());
}

#[tokio::test]
async fn a_request_that_is_dropped_while_its_policies_are_chosen_is_charged_nothing() {
    let clock = ManualClock::default();
    let layer = RateLimitLayer::builder(MemoryStore::with_clock(clock), Partition::identity())
        .policy(window("one", 1))
        .policies_with(by_path)
        .build()
        .unwrap();
    let inner = service_fn(async |_: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    let mut waiting = Box::pin(layer.layer(inner).oneshot(request("/")));
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(waiting.as_mut().poll(&mut cx).is_pending());
    drop(waiting);
    assert_eq!(send(&layer, "/").await.status(), 200);
}
