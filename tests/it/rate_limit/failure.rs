//! Behavior of the rate_limit layer while its store fails, as seen by a client.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use portcullis::{
    Identity, ManualClock, ResponseBody, StoreErrorKind, StoreFuture,
    outcome::{RateLimitDecision, RateLimitOutcome, RecordHandle},
    rate_limit::{
        OnStoreError, Partition, Policy, Quota, RateLimitFields, RateLimitLayer,
        RateLimitLayerBuilder, RateLimitStore, Tiers,
    },
    store::{
        MemoryStore, StoreKeys,
        backend::{Charge, Decisions, Refund, StoreKey},
    },
};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{get, header, slow_store::SlowStore, strict::YieldOnce, text};

type Reply = Response<ResponseBody<Full<Bytes>>>;

/// The time at which a disconnected server reports its failure.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Says {
    AtOnce,
    Later,
}

const BOTH: [Says; 2] = [Says::AtOnce, Says::Later];

/// A server that can be cut off.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    memory: MemoryStore,
    is_down: Arc<AtomicBool>,
    says: Says,
    kind: StoreErrorKind,
}

impl Server {
    pub(crate) fn new(says: Says, clock: &ManualClock) -> Self {
        Self {
            memory: MemoryStore::with_clock(clock.clone()),
            is_down: Arc::new(AtomicBool::new(true)),
            says,
            kind: StoreErrorKind::Unavailable,
        }
    }

    fn set_down(&self, is_down: bool) {
        self.is_down.store(is_down, Ordering::SeqCst);
    }
}

impl RateLimitStore for Server {
    fn keys(&self) -> &StoreKeys {
        RateLimitStore::keys(&self.memory)
    }

    fn take(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions> {
        if !self.is_down.load(Ordering::SeqCst) {
            return self.memory.take(partition, charges);
        }
        match self.says {
            Says::AtOnce => StoreFuture::failed(self.kind),
            Says::Later => {
                let kind = self.kind;
                StoreFuture::pending(async move {
                    YieldOnce::new().await;
                    Err(kind.into())
                })
            }
        }
    }

    fn peek(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions> {
        self.memory.peek(partition, charges)
    }

    fn charge(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<()> {
        self.memory.charge(partition, charges)
    }

    fn refund(&self, partition: &StoreKey, refunds: &[Refund<'_>]) -> StoreFuture<()> {
        self.memory.refund(partition, refunds)
    }

    fn reset(&self, partition: &StoreKey, policies: &[&Policy]) -> StoreFuture<()> {
        self.memory.reset(partition, policies)
    }
}

fn window(limit: u64) -> Policy {
    Policy::fixed_window("few", Quota::new(limit, Duration::from_secs(10))).unwrap()
}

fn limiter(server: &Server, action: OnStoreError) -> RateLimitLayerBuilder {
    RateLimitLayer::builder(server.clone(), Partition::identity())
        .fields(RateLimitFields::Draft11)
        .on_store_error(action)
}

fn local(clock: &ManualClock, share: u32) -> OnStoreError {
    OnStoreError::local(MemoryStore::with_clock(clock.clone()), share)
}

/// Sends a request of this caller, and returns the response and the recorded outcome.
async fn send_as(caller: &str, layer: &RateLimitLayer) -> (Reply, RateLimitOutcome) {
    let record = RecordHandle::default();
    let mut request = get("/");
    let identity = Identity::builder(caller).tier("pro").build();
    request.extensions_mut().insert(identity);
    request.extensions_mut().insert(record.clone());
    let inner = service_fn(|_: Request<Full<Bytes>>| async {
        Ok::<_, Infallible>(Response::new(Full::from("served")))
    });
    let reply = layer.layer(inner).oneshot(request).await.unwrap();
    let outcome = record.read(|slots| slots.rate_limits()[0].clone());
    assert_eq!(reply.extensions().get(), Some(&outcome));
    (reply, outcome)
}

async fn send(layer: &RateLimitLayer) -> (Reply, RateLimitOutcome) {
    send_as("k1", layer).await
}

/// Sends requests until one is rejected, and returns how many were not.
async fn admitted(layer: &RateLimitLayer) -> u32 {
    for count in 0..1_000 {
        let status = send(layer).await.0.status();
        if status != 200 {
            assert_eq!(status, 429);
            return count;
        }
    }
    panic!("nothing limits");
}

#[tokio::test]
async fn store_failure_without_local_store_returns_503_with_retry_after() {
    for says in BOTH {
        let server = Server::new(says, &ManualClock::default());
        let layer = limiter(&server, OnStoreError::default()).policy(window(1));
        let (reply, outcome) = send(&layer.build().unwrap()).await;
        assert_eq!(reply.status(), 503, "{says:?}");
        let wait: u64 = header(reply.headers(), "retry-after")
            .unwrap()
            .parse()
            .unwrap();
        assert!((1..=5).contains(&wait));
        assert_eq!(header(reply.headers(), "cache-control"), Some("no-store"));
        assert_eq!(header(reply.headers(), "ratelimit"), None);
        let closed = RateLimitDecision::FailedClosed(StoreErrorKind::Unavailable);
        assert_eq!((outcome.decision, outcome.policies().len()), (closed, 0));
    }
}

#[tokio::test]
async fn fail_open_admits_requests_without_ratelimit_fields() {
    for says in BOTH {
        let server = Server::new(says, &ManualClock::default());
        let layer = limiter(&server, OnStoreError::Allow).policy(window(1));
        let layer = layer.build().unwrap();
        for _ in 0..3 {
            let (reply, outcome) = send(&layer).await;
            assert_eq!(reply.status(), 200, "{says:?}");
            assert_eq!(header(reply.headers(), "ratelimit"), None);
            let open = RateLimitDecision::FailedOpen(StoreErrorKind::Unavailable);
            assert_eq!((outcome.decision, outcome.policies().len()), (open, 0));
        }
    }
}

#[tokio::test]
async fn a_local_store_admits_its_share_of_each_window_rounded_up_and_then_answers_429() {
    for says in BOTH {
        for (limit, share, part) in [(10, 3, 4), (10, 1, 10), (9, 3, 3), (2, 100, 1)] {
            let clock = ManualClock::default();
            let server = Server::new(says, &clock);
            let layer = limiter(&server, local(&clock, share)).policy(window(limit));
            let layer = layer.build().unwrap();
            for _ in 0..2 {
                assert_eq!(admitted(&layer).await, part, "{limit} / {share}, {says:?}");
                clock.advance(Duration::from_secs(10));
            }
        }
    }
}

#[tokio::test]
async fn record_and_headers_report_the_local_share() {
    for says in BOTH {
        let clock = ManualClock::default();
        let server = Server::new(says, &clock);
        let layer = limiter(&server, local(&clock, 2)).policy(window(2));
        let layer = layer.build().unwrap();
        let kind = StoreErrorKind::Unavailable;

        let (reply, outcome) = send(&layer).await;
        let headers = reply.headers();
        assert_eq!(
            header(headers, "ratelimit-policy"),
            Some("\"few\";q=1;w=10")
        );
        assert_eq!(header(headers, "ratelimit"), Some("\"few\";r=0;t=10"));
        assert_eq!(outcome.decision, RateLimitDecision::LocallyAllowed(kind));
        assert_eq!(
            (outcome.policies()[0].limit, outcome.policies()[0].remaining),
            (1, 0)
        );

        let (reply, outcome) = send(&layer).await;
        assert_eq!(reply.status(), 429, "{says:?}");
        assert_eq!(header(reply.headers(), "retry-after"), Some("10"));
        assert_eq!(outcome.decision, RateLimitDecision::LocallyDenied(kind));
        assert!(outcome.policies()[0].denied);
        let body: serde_json::Value = serde_json::from_str(&text(reply).await).unwrap();
        assert_eq!(body["violated-policies"], serde_json::json!(["few"]));
    }
}

#[tokio::test]
async fn a_store_that_is_back_is_charged_once_what_was_admitted_meanwhile() {
    for says in BOTH {
        let clock = ManualClock::default();
        let server = Server::new(says, &clock);
        let layer = limiter(&server, local(&clock, 3)).policy(window(6));
        let layer = layer.build().unwrap();
        server.set_down(false);
        assert_eq!(send(&layer).await.1.decision, RateLimitDecision::Allowed);
        server.set_down(true);
        assert_eq!(admitted(&layer).await, 2);
        server.set_down(false);
        let (reply, outcome) = send(&layer).await;
        assert_eq!(outcome.decision, RateLimitDecision::Allowed);
        assert_eq!(
            header(reply.headers(), "ratelimit"),
            Some("\"few\";r=4;t=10")
        );
        // Six in all, of which two by the local store.
        assert_eq!(admitted(&layer).await, 2, "{says:?}");
        clock.advance(Duration::from_secs(10));
        assert_eq!(admitted(&layer).await, 6, "{says:?}");
    }
}

#[tokio::test]
async fn a_local_store_may_answer_later_and_counts_each_caller_apart() {
    for says in BOTH {
        let server = Server::new(says, &ManualClock::default());
        let action = OnStoreError::local(SlowStore::default(), 2);
        let layer = limiter(&server, action).policy(window(2)).build().unwrap();
        assert_eq!(admitted(&layer).await, 1);
        assert_eq!(send_as("k2", &layer).await.0.status(), 200, "{says:?}");
    }
}

#[tokio::test]
async fn failing_local_store_returns_503_and_records_the_first_error() {
    for (says, locally) in [(Says::AtOnce, Says::Later), (Says::Later, Says::AtOnce)] {
        let clock = ManualClock::default();
        let second = Server {
            kind: StoreErrorKind::Full,
            ..Server::new(locally, &clock)
        };
        let server = Server::new(says, &clock);
        let layer = limiter(&server, OnStoreError::local(second, 2)).policy(window(2));
        let (reply, outcome) = send(&layer.build().unwrap()).await;
        assert_eq!(reply.status(), 503);
        let closed = RateLimitDecision::FailedClosed(StoreErrorKind::Unavailable);
        assert_eq!(outcome.decision, closed);
    }
}

#[tokio::test]
async fn limits_of_tiers_and_limits_that_were_changed_are_divided_too() {
    let clock = ManualClock::default();
    let server = Server::new(Says::AtOnce, &clock);
    let tiers = Tiers::new("pro").tier("pro", [window(6)]);
    let layer = limiter(&server, local(&clock, 2)).tiers(tiers).build();
    let layer = layer.unwrap();
    assert_eq!(admitted(&layer).await, 3);
    layer.handle().replace_policies([window(10)], None).unwrap();
    assert_eq!(admitted(&layer).await, 2);
}

#[tokio::test]
async fn cost_above_the_local_share_gets_429_with_retry_after() {
    let clock = ManualClock::default();
    let server = Server::new(Says::Later, &clock);
    let layer = limiter(&server, local(&clock, 10)).policy(window(10));
    let layer = layer.cost(|_, _| 5).build().unwrap();
    let (reply, _) = send(&layer).await;
    assert_eq!(reply.status(), 429);
    assert_eq!(header(reply.headers(), "retry-after"), Some("1"));
    assert!(!text(reply).await.contains("ever holds"));
    server.set_down(false);
    assert_eq!(send(&layer).await.0.status(), 200);
}

#[tokio::test]
async fn together_the_instances_buckets_refill_as_fast_as_the_one_that_they_share() {
    let clock = ManualClock::default();
    let server = Server::new(Says::AtOnce, &clock);
    let bucket = Policy::token_bucket("rate", Quota::per_second(1)).unwrap();
    let layer = limiter(&server, local(&clock, 4)).policy(bucket).build();
    let layer = layer.unwrap();
    assert_eq!(admitted(&layer).await, 1);
    clock.advance(Duration::from_secs(3));
    assert_eq!(admitted(&layer).await, 0);
    clock.advance(Duration::from_secs(1));
    assert_eq!(admitted(&layer).await, 1);
}

#[test]
fn a_share_of_zero_is_refused_by_name() {
    let server = Server::new(Says::AtOnce, &ManualClock::default());
    let action = OnStoreError::local(MemoryStore::new(), 0);
    let error = limiter(&server, action)
        .policy(window(1))
        .build()
        .unwrap_err();
    assert_eq!((error.option(), error.value()), ("share", "0"));
}

#[tokio::test]
async fn local_admissions_of_an_ended_window_are_not_charged() {
    for says in BOTH {
        let clock = ManualClock::default();
        let server = Server::new(says, &clock);
        let layer = limiter(&server, local(&clock, 1)).policy(window(4));
        let layer = layer.build().unwrap();
        assert_eq!(admitted(&layer).await, 4);
        server.set_down(false);
        clock.advance(Duration::from_secs(10));
        assert_eq!(admitted(&layer).await, 4, "{says:?}");
    }
}

#[tokio::test]
async fn shadow_policies_admit_requests_while_the_store_fails() {
    for says in BOTH {
        let server = Server::new(says, &ManualClock::default());
        let layer = limiter(&server, OnStoreError::Deny)
            .policy(window(1).shadow())
            .build()
            .unwrap();
        for _ in 0..3 {
            let (reply, outcome) = send(&layer).await;
            assert_eq!(reply.status(), 200, "{says:?}");
            let open = RateLimitDecision::FailedOpen(StoreErrorKind::Unavailable);
            assert_eq!(outcome.decision, open);
        }
    }
}

#[tokio::test]
async fn strictest_policy_decides_while_the_store_fails() {
    use OnStoreError::{Allow, Deny};
    let other = |action: OnStoreError| {
        let quota = Quota::new(9, Duration::from_secs(10));
        let other = Policy::fixed_window("other", quota).unwrap();
        other.on_store_error(action)
    };
    for says in BOTH {
        let clock = ManualClock::default();
        let local = local(&clock, 2);
        for (own, others, statuses) in [
            (None, Some(Allow), [200, 429]),
            (Some(local.clone()), Some(Allow), [200, 429]),
            (Some(Allow), Some(Allow), [200, 200]),
            (Some(Allow), None, [200, 200]),
            (Some(Deny), Some(Allow), [503, 503]),
            (None, Some(Deny), [503, 503]),
        ] {
            let case = format!("{own:?}, {others:?}, {says:?}");
            let server = Server::new(says, &clock);
            let few = window(2);
            let few = own.map_or(few.clone(), |own| few.on_store_error(own));
            let layer = limiter(&server, local.clone()).policy(few);
            let layer = match others {
                Some(action) => layer.policy(other(action)),
                None => layer,
            };
            let layer = layer.build().unwrap();
            for status in statuses {
                let (reply, _) = send(&layer).await;
                assert_eq!(reply.status(), status, "{case}");
            }
            // The local store keeps its counts for the next case.
            clock.advance(Duration::from_secs(60));
        }
    }
}

#[tokio::test]
async fn computes_cost_once_for_each_store_that_decides() {
    for says in BOTH {
        let clock = ManualClock::default();
        let server = Server::new(says, &clock);
        let calls = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&calls);
        let layer = limiter(&server, local(&clock, 1)).policy(window(9));
        let layer = layer.expose_outcome().cost(move |_, _| {
            counted.fetch_add(1, Ordering::SeqCst);
            2
        });
        let layer = layer.build().unwrap();
        let (reply, outcome) = send(&layer).await;
        assert_eq!(reply.status(), 200);
        assert_eq!(outcome.policies()[0].remaining, 7);
        assert_eq!(calls.load(Ordering::SeqCst), 2, "{says:?}");
    }
}

#[test]
fn rejects_local_store_of_a_policy_that_is_not_the_limiters() {
    let clock = ManualClock::default();
    let server = Server::new(Says::AtOnce, &clock);
    let store: Arc<dyn RateLimitStore> = Arc::new(MemoryStore::with_clock(clock.clone()));
    let with_share = |share| OnStoreError::Local {
        store: Arc::clone(&store),
        share,
    };
    let build = |limiters: OnStoreError| {
        let policy = window(1).on_store_error(with_share(2));
        limiter(&server, limiters).policy(policy).build()
    };
    for other in [
        OnStoreError::Deny,
        OnStoreError::Allow,
        with_share(3),
        local(&clock, 2),
    ] {
        let error = build(other).unwrap_err();
        assert_eq!(error.option(), "on_store_error");
    }
    assert!(build(with_share(2)).is_ok());
}
