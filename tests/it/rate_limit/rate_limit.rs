//! Behavior of the rate_limit layer, as seen by a client.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use portcullis::{
    ClientAddrResolver, Identity, ManualClock, PeerAddr, ResponseBody, StoreErrorKind, StoreFuture,
    outcome::{RateLimitDecision, RateLimitOutcome, RecordHandle},
    rate_limit::{
        CallerList, OnStoreError, Partition, Penalty, Policy, Quota, RateLimitFields,
        RateLimitLayer, RateLimitLayerBuilder, RateLimitStore, Tiers,
    },
    store::{
        MemoryStore, StoreKeys,
        backend::{Charge, Decisions, Refund, StoreKey},
    },
};
use tower::{Layer, Service, ServiceExt, service_fn, util::BoxCloneSyncService};

use crate::support::{get, header, text};

type Reply = Response<ResponseBody<Full<Bytes>>>;
type App = BoxCloneSyncService<Request<Full<Bytes>>, Reply, Infallible>;

/// Puts a limiter before a service that counts its calls.
fn app(layer: &RateLimitLayer) -> (App, Arc<AtomicU32>) {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let inner = service_fn(move |_: Request<Full<Bytes>>| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Ok::<_, Infallible>(Response::new(Full::from("served"))) }
    });
    (BoxCloneSyncService::new(layer.layer(inner)), calls)
}

async fn send(app: &App, request: Request<Full<Bytes>>) -> Reply {
    app.clone().oneshot(request).await.unwrap()
}

fn from(peer: &str) -> Request<Full<Bytes>> {
    let mut request = get("/");
    let peer = PeerAddr((peer.parse::<std::net::IpAddr>().unwrap(), 1).into());
    request.extensions_mut().insert(peer);
    request
}

fn by(identity: Identity) -> Request<Full<Bytes>> {
    let mut request = get("/");
    request.extensions_mut().insert(identity);
    request
}

fn caller(key_id: &str, tier: &str) -> Identity {
    Identity::builder(key_id).tier(tier).build()
}

fn by_addr() -> Partition {
    Partition::client_addr(ClientAddrResolver::default())
}

fn in_ten_seconds(limit: u64) -> Quota {
    Quota::new(limit, Duration::from_secs(10))
}

fn window(name: &str, limit: u64) -> Policy {
    Policy::fixed_window(name, in_ten_seconds(limit)).unwrap()
}

fn memory(partition: Partition) -> (RateLimitLayerBuilder, ManualClock) {
    let clock = ManualClock::default();
    let store = MemoryStore::with_clock(clock.clone());
    (RateLimitLayer::builder(store, partition), clock)
}

fn tiers() -> Tiers {
    Tiers::new("free")
        .tier("free", [window("free", 10)])
        .tier("pro", [window("pro", 100)])
        .unlimited("internal")
}

#[tokio::test]
async fn a_spent_quota_answers_429_until_its_window_ends() {
    let (builder, clock) = memory(by_addr());
    let (app, calls) = app(&builder.policy(window("address", 10)).build().unwrap());
    for second in 0..10 {
        assert_eq!(send(&app, from("203.0.113.9")).await.status(), 200);
        clock.advance(Duration::from_millis(second));
    }
    clock.advance(Duration::from_millis(8_955));
    let denied = send(&app, from("203.0.113.9")).await;
    assert_eq!(denied.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(header(denied.headers(), "retry-after"), Some("1"));
    assert_eq!(calls.load(Ordering::SeqCst), 10);

    clock.advance(Duration::from_secs(1));
    assert_eq!(send(&app, from("203.0.113.9")).await.status(), 200);
}

#[tokio::test]
async fn a_429_names_the_policies_that_deny_and_is_never_stored() {
    let (builder, _clock) = memory(by_addr());
    let layer = builder
        .policy(window("few", 1))
        .policy(window("many", 9))
        .build();
    let (app, _) = app(&layer.unwrap());
    send(&app, from("203.0.113.9")).await;
    let denied = send(&app, from("203.0.113.9")).await;
    assert_eq!(header(denied.headers(), "cache-control"), Some("no-store"));
    assert_eq!(
        header(denied.headers(), "content-type"),
        Some("application/problem+json")
    );
    let body: serde_json::Value = serde_json::from_str(&text(denied).await).unwrap();
    assert_eq!(
        body["type"],
        "https://iana.org/assignments/http-problem-types#quota-exceeded"
    );
    assert_eq!(body["violated-policies"], serde_json::json!(["few"]));
}

#[tokio::test]
async fn a_grpc_caller_is_answered_resource_exhausted_in_the_head() {
    let (builder, _clock) = memory(by_addr());
    let (app, _) = app(&builder.policy(window("few", 1)).build().unwrap());
    let request = || {
        let mut request = from("203.0.113.9");
        let grpc = "application/grpc+proto".parse().unwrap();
        request.headers_mut().insert("content-type", grpc);
        *request.version_mut() = http::Version::HTTP_2;
        request
    };
    send(&app, request()).await;
    let denied = send(&app, request()).await;
    assert_eq!(denied.status(), 200);
    assert_eq!(header(denied.headers(), "grpc-status"), Some("8"));
    assert_eq!(text(denied).await, "");
}

#[tokio::test]
async fn one_client_does_not_spend_anothers_quota() {
    let (builder, _clock) = memory(by_addr());
    let (app, _) = app(&builder.policy(window("address", 1)).build().unwrap());
    for peer in [
        "203.0.113.9",
        "203.0.113.10",
        "2001:db8::1",
        "2001:db8:0:100::1",
    ] {
        assert_eq!(send(&app, from(peer)).await.status(), 200, "{peer}");
        assert_eq!(send(&app, from(peer)).await.status(), 429, "{peer}");
    }
    assert_eq!(send(&app, from("2001:db8::2")).await.status(), 429);
}

#[tokio::test]
async fn each_tier_has_its_own_quota_and_a_caller_of_none_has_the_fallbacks() {
    let (builder, _clock) = memory(Partition::identity());
    let (app, _) = app(&builder.tiers(tiers()).build().unwrap());
    for (caller, quota) in [
        (caller("k1", "free"), 10),
        (caller("k2", "pro"), 100),
        (caller("k3", "unheard of"), 10),
        (Identity::builder("k4").build(), 10),
    ] {
        for _ in 0..quota {
            assert_eq!(send(&app, by(caller.clone())).await.status(), 200);
        }
        assert_eq!(send(&app, by(caller)).await.status(), 429);
    }
    for _ in 0..200 {
        assert_eq!(send(&app, by(caller("k5", "internal"))).await.status(), 200);
    }
}

#[tokio::test]
async fn identity_limiter_skips_and_records_anonymous_requests() {
    let (builder, _clock) = memory(Partition::identity());
    let (app, _) = app(&builder.policy(window("few", 1)).build().unwrap());
    let record = RecordHandle::default();
    for _ in 0..3 {
        let mut request = get("/");
        request.extensions_mut().insert(record.clone());
        let response = send(&app, request).await;
        assert_eq!(response.status(), 200);
        let outcome: &RateLimitOutcome = response.extensions().get().unwrap();
        assert_eq!(outcome.decision, RateLimitDecision::Skipped);
    }
    assert_eq!(record.read(|slots| slots.rate_limits().len()), 3);
}

#[tokio::test]
async fn a_missing_client_address_is_a_500_and_never_a_shared_quota() {
    let (builder, _clock) = memory(by_addr());
    let (app, calls) = app(&builder.policy(window("address", 1)).build().unwrap());
    let response = send(&app, get("/")).await;
    assert_eq!(response.status(), 500);
    assert!(!text(response).await.contains("portcullis::PeerAddr"));
    assert_eq!(calls.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn denied_by_one_policy_is_charged_to_none() {
    let (builder, clock) = memory(by_addr());
    let second = Quota::per_second(1);
    let layer = builder
        .policy(window("ten", 3))
        .policy(Policy::fixed_window("one", second).unwrap())
        .fields(RateLimitFields::Draft11)
        .build();
    let (app, _) = app(&layer.unwrap());
    for round in 0..3 {
        assert_eq!(send(&app, from("203.0.113.9")).await.status(), 200);
        for _ in 0..20 {
            let denied = send(&app, from("203.0.113.9")).await;
            assert_eq!(denied.status(), 429);
            let left = format!("\"ten\";r={};t={}, \"one\";r=0;t=1", 2 - round, 10 - round);
            assert_eq!(header(denied.headers(), "ratelimit"), Some(left.as_str()));
        }
        clock.advance(Duration::from_secs(1));
    }
    let denied = send(&app, from("203.0.113.9")).await;
    assert_eq!(header(denied.headers(), "retry-after"), Some("7"));
}

#[tokio::test]
async fn two_limiters_each_append_their_fields() {
    let (outer, clock) = memory(by_addr());
    let outer = outer
        .policy(window("address", 300))
        .fields(RateLimitFields::Draft11)
        .build()
        .unwrap();
    let inner = RateLimitLayer::builder(MemoryStore::with_clock(clock), Partition::identity())
        .tiers(tiers())
        .fields(RateLimitFields::Draft11)
        .build()
        .unwrap();
    let (app, _) = app(&inner);
    let app = outer.layer(app);
    let mut request = from("203.0.113.9");
    request.extensions_mut().insert(caller("k", "pro"));
    let response = app.oneshot(request).await.unwrap();
    let lines = |name| response.headers().get_all(name).iter().collect::<Vec<_>>();
    assert_eq!(
        lines("ratelimit-policy"),
        ["\"pro\";q=100;w=10", "\"address\";q=300;w=10"]
    );
    assert_eq!(
        lines("ratelimit"),
        ["\"pro\";r=99;t=10", "\"address\";r=299;t=10"]
    );
}

#[tokio::test]
async fn record_and_response_contain_the_decision_of_each_policy() {
    let (builder, _clock) = memory(by_addr());
    let (app, _) = app(&builder.policy(window("few", 2)).build().unwrap());
    let record = RecordHandle::default();
    let mut request = from("203.0.113.9");
    request.extensions_mut().insert(record.clone());
    let response = send(&app, request).await;
    let outcome: &RateLimitOutcome = response.extensions().get().unwrap();
    assert_eq!(outcome.decision, RateLimitDecision::Allowed);
    assert_eq!(&*outcome.policies()[0].policy, "few");
    assert_eq!(
        (outcome.policies()[0].limit, outcome.policies()[0].remaining),
        (2, 1)
    );
    record.read(|slots| assert_eq!(slots.rate_limits(), std::slice::from_ref(outcome)));
}

#[tokio::test]
async fn response_of_two_limiters_has_the_outcome_of_the_inner_one_and_the_record_has_both() {
    let (outer, clock) = memory(by_addr());
    let outer = outer.policy(window("address", 300)).build().unwrap();
    let by_identity = Partition::identity();
    let inner = RateLimitLayer::builder(MemoryStore::with_clock(clock), by_identity);
    let (app, _) = app(&inner.policy(window("caller", 1)).build().unwrap());
    let app = outer.layer(app);
    for inner_decision in [RateLimitDecision::Allowed, RateLimitDecision::Denied] {
        let record = RecordHandle::default();
        let mut request = from("203.0.113.9");
        request.extensions_mut().insert(caller("k", "free"));
        request.extensions_mut().insert(record.clone());
        let response = app.clone().oneshot(request).await.unwrap();
        let outcome: &RateLimitOutcome = response.extensions().get().unwrap();
        assert_eq!(outcome.decision, inner_decision);
        assert_eq!(&*outcome.policies()[0].policy, "caller");
        record.read(|slots| {
            let [first, second] = slots.rate_limits() else {
                panic!("one outcome of each limiter");
            };
            assert_eq!(first.decision, RateLimitDecision::Allowed);
            assert_eq!(&*first.policies()[0].policy, "address");
            assert_eq!(second, outcome);
        });
    }
}

#[tokio::test]
async fn without_record_only_denied_responses_carry_the_outcome() {
    let (builder, _clock) = memory(by_addr());
    let (app, _) = app(&builder.policy(window("few", 1)).build().unwrap());
    let admitted = send(&app, from("203.0.113.9")).await;
    assert!(admitted.extensions().get::<RateLimitOutcome>().is_none());
    let denied = send(&app, from("203.0.113.9")).await;
    let outcome: &RateLimitOutcome = denied.extensions().get().unwrap();
    assert_eq!(outcome.decision, RateLimitDecision::Denied);
    assert!(outcome.policies()[0].denied);
}

#[tokio::test]
async fn shadow_policy_denies_no_request_and_appears_only_in_the_record() {
    let (builder, _clock) = memory(by_addr());
    let layer = builder
        .policy(window("strict", 1).shadow())
        .policy(window("real", 3))
        .fields(RateLimitFields::Draft11)
        .build();
    let (app, _) = app(&layer.unwrap());
    let record = RecordHandle::default();
    for round in 0..3 {
        let mut request = from("203.0.113.9");
        request.extensions_mut().insert(record.clone());
        let response = send(&app, request).await;
        assert_eq!(response.status(), 200);
        let outcome: &RateLimitOutcome = response.extensions().get().unwrap();
        assert_eq!(outcome.policies()[0].denied, round > 0);
        let policies = header(response.headers(), "ratelimit-policy");
        assert_eq!(policies, Some("\"real\";q=3;w=10"));
    }
    let denied = send(&app, from("203.0.113.9")).await;
    assert_eq!(denied.status(), 429);
    assert!(!text(denied).await.contains("strict"));
}

#[tokio::test]
async fn limiter_with_only_shadow_policies_sends_no_fields() {
    let (builder, _clock) = memory(by_addr());
    let builder = builder.policy(window("strict", 1).shadow());
    let (app, _) = app(&builder.fields(RateLimitFields::Draft11).build().unwrap());
    for _ in 0..3 {
        let response = send(&app, from("203.0.113.9")).await;
        assert_eq!(response.status(), 200);
        assert!(response.headers().is_empty());
    }
}

#[tokio::test]
async fn cost_function_sets_the_cost_of_each_policy() {
    let (builder, _clock) = memory(by_addr());
    let layer = builder
        .policy(window("requests", 10))
        .policy(window("units", 10))
        .fields(RateLimitFields::Draft11)
        .cost(|head, policy| match (head.method.as_str(), policy.name()) {
            ("POST", "units") => 4,
            ("HEAD", _) => 0,
            _ => 1,
        })
        .build();
    let (app, _) = app(&layer.unwrap());
    for (method, left) in [
        ("GET", (9, 9)),
        ("POST", (8, 5)),
        ("HEAD", (8, 5)),
        ("POST", (7, 1)),
    ] {
        let mut request = from("203.0.113.9");
        *request.method_mut() = method.parse().unwrap();
        let response = send(&app, request).await;
        let left = format!(
            "\"requests\";r={};t=10, \"units\";r={};t=10",
            left.0, left.1
        );
        assert_eq!(header(response.headers(), "ratelimit"), Some(left.as_str()));
    }
}

#[tokio::test]
async fn allow_list_exempts_callers_and_deny_list_rejects_them() {
    let (builder, _clock) = memory(by_addr());
    let network = |network: &str| [network.parse().unwrap()];
    let resolver = ClientAddrResolver::default;
    let layer = builder
        .policy(window("few", 1))
        .allow(
            CallerList::new()
                .networks(resolver(), network("203.0.113.0/24"))
                .owners(["acme"]),
        )
        .deny(
            CallerList::new()
                .networks(resolver(), network("203.0.113.66"))
                .lineages(["spam"]),
        )
        .skip(|head| head.uri.path() == "/healthz")
        .build();
    let (app, calls) = app(&layer.unwrap());
    let with = |identity: Identity| {
        let mut request = from("198.51.100.1");
        request.extensions_mut().insert(identity);
        request
    };
    for _ in 0..3 {
        assert_eq!(send(&app, from("203.0.113.9")).await.status(), 200);
        let acme = Identity::builder("k").owner("acme").build();
        assert_eq!(send(&app, with(acme)).await.status(), 200);
        assert_eq!(send(&app, get("/healthz")).await.status(), 500);
        let mut healthz = from("198.51.100.9");
        *healthz.uri_mut() = "/healthz".parse().unwrap();
        assert_eq!(send(&app, healthz).await.status(), 200);
    }
    let served = calls.load(Ordering::SeqCst);
    assert_eq!(send(&app, from("203.0.113.66")).await.status(), 403);
    let spam = Identity::builder("k9").lineage("spam").build();
    assert_eq!(send(&app, with(spam)).await.status(), 403);
    assert_eq!(calls.load(Ordering::SeqCst), served);
}

#[tokio::test]
async fn the_tier_may_be_chosen_by_the_request() {
    let (builder, _clock) = memory(by_addr());
    let tiers = Tiers::new("read")
        .tier("read", [window("read", 5)])
        .tier("write", [window("write", 1)]);
    let layer = builder
        .tiers(tiers)
        .tier_with(|head| {
            Some(
                if head.method == "POST" {
                    "write"
                } else {
                    "read"
                }
                .into(),
            )
        })
        .build();
    let (app, _) = app(&layer.unwrap());
    let post = || {
        let mut request = from("203.0.113.9");
        *request.method_mut() = http::Method::POST;
        request
    };
    assert_eq!(send(&app, post()).await.status(), 200);
    assert_eq!(send(&app, post()).await.status(), 429);
    assert_eq!(send(&app, from("203.0.113.9")).await.status(), 200);
}

#[tokio::test]
async fn limits_change_while_they_are_in_use_and_what_was_used_stays_used() {
    fn bucket(name: &str, limit: u64) -> Policy {
        Policy::token_bucket(name, Quota::per_minute(limit)).unwrap()
    }
    for (policy, more) in [(window as fn(&str, u64) -> Policy, 5), (bucket, 0)] {
        let (builder, _clock) = memory(by_addr());
        let layer = builder.policy(policy("caller", 10)).build().unwrap();
        let (app, calls) = app(&layer);
        let spend = async || {
            for _ in 0..30 {
                send(&app, from("203.0.113.9")).await;
            }
            calls.swap(0, Ordering::SeqCst)
        };
        assert_eq!(spend().await, 10);
        layer
            .handle()
            .replace_policies([policy("caller", 15)], None)
            .unwrap();
        assert_eq!(spend().await, more);
        layer
            .handle()
            .replace_policies([policy("caller", 5)], None)
            .unwrap();
        assert_eq!(spend().await, 0);
    }
}

#[tokio::test]
async fn limits_that_make_no_sense_change_nothing() {
    let (builder, _clock) = memory(by_addr());
    let layer = builder.policy(window("few", 1)).build().unwrap();
    let (app, _) = app(&layer);
    assert!(layer.handle().replace_policies([], None).is_err());
    assert_eq!(send(&app, from("203.0.113.9")).await.status(), 200);
    assert_eq!(send(&app, from("203.0.113.9")).await.status(), 429);
}

#[tokio::test]
async fn jitter_spreads_the_clients_and_never_calls_one_back_too_early() {
    let (builder, _clock) = memory(by_addr());
    let builder = builder.policy(window("few", 1));
    let (app, _) = app(&builder
        .retry_jitter(Duration::from_secs(60))
        .build()
        .unwrap());
    let mut waits = std::collections::BTreeSet::new();
    for number in 0..50 {
        let peer = format!("203.0.113.{number}");
        send(&app, from(&peer)).await;
        let denied = send(&app, from(&peer)).await;
        waits.insert(
            header(denied.headers(), "retry-after")
                .unwrap()
                .parse::<u64>()
                .unwrap(),
        );
    }
    assert!(waits.iter().all(|wait| (10..=70).contains(wait)));
    assert!(waits.len() > 10, "{waits:?}");
}

/// A store that answers later, or fails.
#[derive(Clone, Debug)]
struct Remote {
    memory: MemoryStore,
    fails: Option<StoreErrorKind>,
}

impl RateLimitStore for Remote {
    fn keys(&self) -> &StoreKeys {
        RateLimitStore::keys(&self.memory)
    }

    fn take(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions> {
        let result = match self.fails {
            Some(kind) => Err(kind.into()),
            None => self
                .memory
                .take(partition, charges)
                .into_ready()
                .ready()
                .unwrap(),
        };
        StoreFuture::pending(async {
            tokio::task::yield_now().await;
            result
        })
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

fn remote(fails: Option<StoreErrorKind>) -> RateLimitLayerBuilder {
    let memory = MemoryStore::with_clock(ManualClock::default());
    RateLimitLayer::builder(Remote { memory, fails }, by_addr()).policy(window("few", 1))
}

#[tokio::test]
async fn a_store_that_answers_later_is_waited_for() {
    let (app, calls) = app(&remote(None)
        .fields(RateLimitFields::Draft11)
        .build()
        .unwrap());
    let admitted = send(&app, from("203.0.113.9")).await;
    assert_eq!(admitted.status(), 200);
    assert_eq!(
        header(admitted.headers(), "ratelimit"),
        Some("\"few\";r=0;t=10")
    );
    assert_eq!(send(&app, from("203.0.113.9")).await.status(), 429);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_request_dropped_while_the_store_thinks_never_reaches_the_inner_service() {
    let (mut app, calls) = app(&remote(None).build().unwrap());
    let mut waiting = app.ready().await.unwrap().call(from("203.0.113.9"));
    let polled = std::future::poll_fn(|cx| {
        std::task::Poll::Ready(std::pin::Pin::new(&mut waiting).poll(cx).is_pending())
    });
    assert!(polled.await);
    drop(waiting);
    assert_eq!(calls.load(Ordering::SeqCst), 0);
    assert_eq!(send(&app, from("203.0.113.10")).await.status(), 200);
}

#[tokio::test]
async fn a_failing_store_turns_requests_away_with_503_unless_they_may_pass() {
    let failing = || remote(Some(StoreErrorKind::Timeout));
    let (app_closed, calls) = app(&failing().build().unwrap());
    let response = send(&app_closed, from("203.0.113.9")).await;
    assert_eq!(response.status(), 503);
    assert_eq!(header(response.headers(), "retry-after"), Some("1"));
    let outcome: &RateLimitOutcome = response.extensions().get().unwrap();
    let closed = RateLimitDecision::FailedClosed(StoreErrorKind::Timeout);
    assert_eq!(outcome.decision, closed);
    assert_eq!(calls.load(Ordering::SeqCst), 0);

    let open = failing().on_store_error(OnStoreError::Allow);
    let (app_open, calls) = app(&open.build().unwrap());
    for _ in 0..3 {
        assert_eq!(send(&app_open, from("203.0.113.9")).await.status(), 200);
    }
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

#[test]
fn a_limiter_that_limits_nothing_is_refused() {
    let (builder, _clock) = memory(by_addr());
    assert_eq!(builder.build().unwrap_err().option(), "policies");
    let (builder, _clock) = memory(by_addr());
    let unlimited = Tiers::new("all").unlimited("all");
    assert!(builder.tiers(unlimited).build().is_err());
}

#[test]
fn a_fallback_tier_that_does_not_exist_is_refused_by_name() {
    let (builder, _clock) = memory(Partition::identity());
    let tiers = Tiers::new("gratis").tier("free", [window("free", 1)]);
    let error = builder.tiers(tiers).build().unwrap_err();
    assert_eq!((error.option(), error.value()), ("fallback tier", "gratis"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_that_hammer_one_partition_are_admitted_exactly_the_limit() {
    let per_day = Quota::per_day(100);
    for policies in [
        vec![window("one", 100)],
        vec![Policy::aligned_window("one", per_day).unwrap()],
        vec![Policy::calendar_month("one", 100).unwrap()],
        vec![Policy::sliding_window("one", per_day).unwrap()],
        vec![Policy::sliding_log("one", per_day).unwrap()],
        vec![Policy::token_bucket("one", per_day).unwrap()],
        vec![Policy::leaky_bucket("one", per_day).unwrap()],
        vec![
            window("more", 500),
            Policy::token_bucket("less", per_day).unwrap(),
            Policy::aligned_window("same", in_ten_seconds(100)).unwrap(),
        ],
        vec![
            Policy::sliding_log("log", Quota::per_day(500)).unwrap(),
            window("window", 100),
            Policy::sliding_log("less", per_day).unwrap(),
        ],
    ] {
        let (builder, _clock) = memory(by_addr());
        let builder = policies
            .into_iter()
            .fold(builder, RateLimitLayerBuilder::policy);
        let (app, calls) = app(&builder.build().unwrap());
        let tasks: Vec<_> = (0..64)
            .map(|_| {
                let app = app.clone();
                tokio::spawn(async move {
                    for _ in 0..10 {
                        send(&app, from("203.0.113.9")).await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(calls.load(Ordering::SeqCst), 100);
    }
}

/// Lists of policies that each admit `limit`: each algorithm alone, and some together.
fn lists_that_admit(limit: u64) -> Vec<Vec<Policy>> {
    let day = Duration::from_secs(24 * 60 * 60);
    let (quota, more) = (Quota::per_day(limit), Quota::per_day(5 * limit));
    let wait = day - day / u32::try_from(limit).unwrap();
    let log = |name, quota| Policy::sliding_log(name, quota).unwrap();
    vec![
        vec![Policy::fixed_window("anchored", quota).unwrap()],
        vec![Policy::aligned_window("aligned", quota).unwrap()],
        vec![Policy::calendar_month("month", limit).unwrap()],
        vec![Policy::sliding_window("sliding", quota).unwrap()],
        vec![log("log", quota)],
        vec![Policy::token_bucket("token", quota).unwrap()],
        vec![Policy::leaky_bucket("leaky", quota).unwrap()],
        vec![Policy::leaky_queue("queue", quota, wait).unwrap()],
        vec![
            Policy::fixed_window("more", more).unwrap(),
            Policy::token_bucket("token", quota).unwrap(),
            Policy::sliding_window("same", quota).unwrap(),
        ],
        vec![
            log("log", more),
            Policy::aligned_window("aligned", quota).unwrap(),
            Policy::leaky_queue("queue", quota, wait).unwrap(),
        ],
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_that_hammer_one_key_and_a_thousand_are_admitted_exactly_the_limit_of_each() {
    // Each key is requested by `tasks_of_each` tasks; all go through the keys in the same order.
    for (keys, tasks_of_each, limit) in [(1, 64, 40), (1_000, 8, 5)] {
        for policies in lists_that_admit(limit) {
            let store = MemoryStore::with_clock(ManualClock::default());
            let space = RateLimitStore::keys(&store).space("test");
            let admitted: Vec<_> = (0..keys).map(|_| AtomicU32::new(0)).collect();
            let shared = Arc::new((store, policies, admitted));
            let hammer = |task: u64| {
                let (shared, space) = (Arc::clone(&shared), space.clone());
                tokio::spawn(async move {
                    let (store, policies, admitted) = &*shared;
                    let charges: Vec<_> = policies.iter().map(|one| Charge::new(one, 1)).collect();
                    let own = |key: &u64| (task + key) % 64 < tasks_of_each;
                    for key in (0..keys).filter(own) {
                        let partition = space.short_key(&key.to_le_bytes());
                        let decisions = store.take(&partition, &charges).await.unwrap();
                        let counted = u32::from(decisions.is_admitted());
                        admitted[key as usize].fetch_add(counted, Ordering::Relaxed);
                    }
                })
            };
            for task in (0..64).map(hammer).collect::<Vec<_>>() {
                task.await.unwrap();
            }
            let (_, policies, admitted) = &*shared;
            for (key, admitted) in admitted.iter().enumerate() {
                let admitted = u64::from(admitted.load(Ordering::Relaxed));
                assert_eq!(admitted, limit, "key {key} of {keys}, by {policies:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_refund_and_a_reset_reach_what_was_taken() {
    let store = MemoryStore::with_clock(ManualClock::default());
    let policy = window("few", 10);
    let key = RateLimitStore::keys(&store).space("test").short().finish();
    let charge = [Charge::new(&policy, 8)];
    let taken = store.take(&key, &charge).await.unwrap();
    assert!(!store.take(&key, &charge).await.unwrap().is_admitted());
    let refund = [Refund::new(&policy, taken.each()[0].receipt(), 5)];
    store.refund(&key, &refund).await.unwrap();
    let peek = store.peek(&key, &[Charge::new(&policy, 0)]).await.unwrap();
    assert_eq!(peek.each()[0].remaining(), 7);
    store.reset(&key, &[&policy]).await.unwrap();
    let peek = store.peek(&key, &[Charge::new(&policy, 0)]).await.unwrap();
    assert_eq!(peek.each()[0].remaining(), 10);
}

/// Returns how many requests of one client are admitted, of a limit of five.
async fn admitted_of<I>(partition: Partition, requests: I) -> usize
where
    I: IntoIterator<Item = Request<Full<Bytes>>>,
{
    let (builder, _clock) = memory(partition);
    let layer = builder.policy(window("five", 5)).build().unwrap();
    let (app, calls) = app(&layer);
    for request in requests {
        send(&app, request).await;
    }
    calls.load(Ordering::SeqCst) as usize
}

#[tokio::test]
async fn invented_methods_share_one_quota() {
    let request = |method: &str| {
        let mut request = from("203.0.113.9");
        *request.method_mut() = http::Method::from_bytes(method.as_bytes()).unwrap();
        request
    };
    let invented = || (0..200).map(|number| request(&format!("GET{number}")));
    for partition in [by_addr().and(Partition::method()), Partition::method()] {
        assert_eq!(admitted_of(partition.clone(), invented()).await, 5);
        let spellings = ["get", "Get", "GET", "PATCH"].map(request);
        let all = invented().chain(spellings);
        assert_eq!(admitted_of(partition, all).await, 5 + 2);
    }
}

#[tokio::test]
async fn spellings_of_an_address_in_a_header_share_one_quota() {
    const NAME: &str = "x-real-ip";
    let request = |value: &str| {
        let mut request = get("/");
        let value = http::HeaderValue::from_str(value).unwrap();
        request.headers_mut().insert(NAME, value);
        request
    };
    let ipv4 = [
        "192.0.2.1",
        "192.0.2.1:80",
        "\"192.0.2.1\"",
        "::ffff:192.0.2.1",
        "::FFFF:c000:201",
        "0:0:0:0:0:ffff:192.0.2.1",
        "[::ffff:192.0.2.1]",
        "[::ffff:192.0.2.1]:443",
        "192.0.2.1 ",
    ];
    let ipv6 = [
        "2001:db8::1",
        "2001:DB8::1",
        "[2001:db8:0::1]:80",
        "2001:db8:0:0:ffff::2",
        "2001:db8::9",
    ];
    for partition in [
        Partition::header(http::HeaderName::from_static(NAME)),
        Partition::method().and(Partition::header(http::HeaderName::from_static(NAME))),
    ] {
        let ipv4 = || ipv4.into_iter().map(request);
        assert_eq!(admitted_of(partition.clone(), ipv4()).await, 5);
        let ipv6 = ipv6.into_iter().cycle().take(20).map(request);
        assert_eq!(admitted_of(partition.clone(), ipv4().chain(ipv6)).await, 10);
        // Values that are not addresses are unchanged.
        let others = ["a", "A", "192.0.2", "192.0.2.1.5"].map(request);
        assert_eq!(admitted_of(partition, ipv4().chain(others)).await, 9);
    }
}

#[tokio::test]
async fn spellings_of_a_host_share_one_quota() {
    let in_header = |host: &str| {
        let mut request = get("/");
        let host = http::HeaderValue::from_str(host).unwrap();
        request.headers_mut().insert(http::header::HOST, host);
        request
    };
    let spellings = [
        "example.com",
        "EXAMPLE.com",
        "example.com.",
        "example.com:80",
        "example.com:8080",
        "Example.Com.:443",
    ];
    let in_target = [
        "http://example.com/",
        "https://EXAMPLE.COM:444/",
        "http://me@example.com./",
    ];
    let partition = Partition::header(http::header::HOST);
    let requests = || {
        spellings
            .into_iter()
            .map(in_header)
            .chain(in_target.map(get))
    };
    assert_eq!(admitted_of(partition.clone(), requests()).await, 5);
    let other = [in_header("example.org"), get("http://example.net/")];
    assert_eq!(admitted_of(partition, requests().chain(other)).await, 7);
}

/// The options after which a decision is not the end of an admission.
fn with_follow_ups() -> [RateLimitLayerBuilder; 4] {
    let wide = Policy::fixed_window("wide", Quota::per_minute(9)).unwrap();
    let queue = Policy::leaky_queue("queue", Quota::per_second(1), Duration::from_secs(9));
    let limiter = || RateLimitLayer::builder(MemoryStore::new(), Partition::identity());
    [
        limiter().policy(wide.clone()).settle_after_response(),
        limiter().policy(wide.clone()).expose_outcome(),
        limiter()
            .policy(wide)
            .penalty(Penalty::after(1).failed_auth()),
        limiter().policy(queue.unwrap()),
    ]
}

#[tokio::test]
async fn decides_within_the_call_if_the_store_replies_at_once() {
    for builder in with_follow_ups() {
        let (mut app, calls) = app(&builder.build().unwrap());
        let response = app.ready().await.unwrap().call(by(caller("k1", "free")));
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        assert_eq!(response.await.unwrap().status(), StatusCode::OK);
    }
}
