//! Known bugs of other rate limiters, which must not occur in this one.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{HeaderName, Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use portcullis::{
    ClientAddrResolver, ManualClock, PeerAddr, ResponseBody, Timestamp, TrustedProxies,
    net::ForwardedHeader,
    rate_limit::{Partition, Policy, Quota, RateLimitFields, RateLimitLayer, RateLimitStore},
    store::{
        MemoryStore,
        backend::{Charge, Receipt, Refund, State},
    },
};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::support::header;

/// The usage of one partition under one policy, and a clock to move.
struct Client {
    policy: Policy,
    state: State,
    now: Timestamp,
}

impl Client {
    fn new(policy: Policy) -> Self {
        Self {
            policy,
            state: State::NONE,
            now: Timestamp::from_secs(1_000_000),
        }
    }

    fn take(&mut self, cost: u64) -> bool {
        let (decision, next) = self.policy.decide(self.state, self.now, cost);
        self.state = next;
        decision.is_admitted()
    }

    fn admitted_of(&mut self, requests: u64) -> u64 {
        (0..requests).map(|_| u64::from(self.take(1))).sum()
    }

    fn left(&self) -> u64 {
        self.policy.decide(self.state, self.now, 0).0.remaining()
    }

    fn retry_after(&self, cost: u64) -> Option<Duration> {
        self.policy
            .decide(self.state, self.now, cost)
            .0
            .retry_after()
    }

    fn wait(&mut self, time: Duration) -> &mut Self {
        self.now = self.now + time;
        self
    }
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn bucket(quota: Quota) -> Client {
    Client::new(Policy::token_bucket("bucket", quota).unwrap())
}

/// One client of each algorithm, with the same quota.
fn each(limit: u64, window: Duration) -> [Client; 6] {
    let quota = Quota::new(limit, window);
    [
        Policy::fixed_window("anchored", quota),
        Policy::aligned_window("aligned", quota),
        Policy::sliding_window("sliding", quota),
        Policy::sliding_log("log", quota),
        Policy::token_bucket("token", quota),
        Policy::leaky_bucket("leaky", quota),
    ]
    .map(|policy| Client::new(policy.unwrap()))
}

fn peer(address: [u8; 4]) -> PeerAddr {
    PeerAddr((address, 4711).into())
}

fn request(forwarded_for: &str) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::default());
    request.extensions_mut().insert(peer([10, 0, 0, 1]));
    let value = forwarded_for.parse().unwrap();
    request.headers_mut().insert("x-forwarded-for", value);
    request
}

fn behind_one_proxy(policy: Policy) -> RateLimitLayer {
    let resolver = ClientAddrResolver::new(TrustedProxies::Hops(1));
    let store = MemoryStore::with_clock(ManualClock::default());
    let builder = RateLimitLayer::builder(store, Partition::client_addr(resolver));
    let builder = builder.policy(policy).fields(RateLimitFields::Draft11);
    builder.build().unwrap()
}

async fn serve<B>(_: Request<B>) -> Result<Response<Empty<Bytes>>, Infallible> {
    Ok(Response::new(Empty::new()))
}

// tower_governor: a wait of less than a second became `Retry-After: 0`.
#[tokio::test]
async fn a_wait_of_less_than_a_second_is_not_announced_as_zero() {
    let policy = Policy::token_bucket("fast", Quota::per_second(100).burst(1)).unwrap();
    let app = behind_one_proxy(policy).layer(service_fn(serve));
    app.clone().oneshot(request("203.0.113.9")).await.unwrap();
    let denied = app.oneshot(request("203.0.113.9")).await.unwrap();
    assert_eq!(denied.status(), 429);
    assert_eq!(header(denied.headers(), "retry-after"), Some("1"));
    assert_eq!(
        header(denied.headers(), "ratelimit"),
        Some("\"fast\";r=0;t=1")
    );
}

// axum-governor: 1.99 s became 1, and the client came back too early.
#[tokio::test]
async fn a_wait_is_not_rounded_down() {
    let quota = Quota::new(1, Duration::from_millis(1_990));
    let app = behind_one_proxy(Policy::token_bucket("slow", quota).unwrap());
    let app = app.layer(service_fn(serve));
    app.clone().oneshot(request("203.0.113.9")).await.unwrap();
    let denied = app.oneshot(request("203.0.113.9")).await.unwrap();
    assert_eq!(header(denied.headers(), "retry-after"), Some("2"));
}

// actix-governor: `per_second(4000)` meant one in 4000 seconds, and a burst hid it for weeks.
#[test]
fn a_number_per_second_is_not_a_number_of_seconds() {
    let mut client = bucket(Quota::per_second(4_000).burst(1));
    client.take(1);
    assert!(client.wait(Duration::from_micros(250)).take(1));
}

// status-list-server, slowapi and others: the leftmost entry is what the client writes.
#[tokio::test]
async fn a_rotated_forwarded_for_does_not_get_around_the_limit() {
    let policy = Policy::fixed_window("few", Quota::per_minute(3)).unwrap();
    let app = behind_one_proxy(policy).layer(service_fn(serve));
    let mut admitted = 0;
    for number in 0..20 {
        let forwarded = format!("198.51.100.{number}, 203.0.113.9");
        let response = app.clone().oneshot(request(&forwarded)).await.unwrap();
        admitted += u32::from(response.status() == 200);
    }
    assert_eq!(admitted, 3);
}

// axum-governor: `Forwarded` was read from the left, and an entry with a port was passed over, so
// that what the client had written to its left counted.
#[tokio::test]
async fn neither_a_forwarded_header_nor_a_port_lets_the_client_choose_its_address() {
    for header in [ForwardedHeader::Forwarded, ForwardedHeader::XForwardedFor] {
        let resolver =
            ClientAddrResolver::new(TrustedProxies::Hops(1)).forwarded_header(header.clone());
        let store = MemoryStore::with_clock(ManualClock::default());
        let layer = RateLimitLayer::builder(store, Partition::client_addr(resolver))
            .policy(Policy::fixed_window("few", Quota::per_minute(3)).unwrap())
            .build()
            .unwrap();
        let app = layer.layer(service_fn(serve));
        let mut admitted = 0;
        for number in 0..20 {
            let forged = format!("198.51.100.{number}, 203.0.113.9:4711");
            let mut request = request(&forged);
            let forged = format!("for=198.51.100.{number}, for=\"203.0.113.9:4711\"");
            let forged = forged.parse().unwrap();
            request.headers_mut().insert("forwarded", forged);
            let response = app.clone().oneshot(request).await.unwrap();
            admitted += u32::from(response.status() == 200);
        }
        assert_eq!(admitted, 3, "{header:?}");
    }
}

// Behind a content delivery network that sends the client's address in a field of its own, other
// crates count the network's address, or trust the field from every peer.
#[tokio::test]
async fn clients_of_a_single_address_field_have_limits_of_their_own() {
    let proxies = TrustedProxies::cidrs(["192.0.2.0/24"]).unwrap();
    let resolver = ClientAddrResolver::new(proxies)
        .forwarded_header(http::HeaderName::from_static("cf-connecting-ip"));
    let store = MemoryStore::with_clock(ManualClock::default());
    let layer = RateLimitLayer::builder(store, Partition::client_addr(resolver))
        .policy(Policy::fixed_window("few", Quota::per_minute(1)).unwrap())
        .build()
        .unwrap();
    let app = layer.layer(service_fn(serve));
    let status = async |peer: [u8; 4], client: &str| {
        let mut request = request("198.51.100.1");
        request
            .extensions_mut()
            .insert(PeerAddr((peer, 443).into()));
        let client = client.parse().unwrap();
        request.headers_mut().insert("cf-connecting-ip", client);
        app.clone().oneshot(request).await.unwrap().status()
    };
    let (proxy, stranger) = ([192, 0, 2, 7], [203, 0, 113, 99]);
    assert_eq!(status(proxy, "203.0.113.9").await, 200);
    assert_eq!(status(proxy, "203.0.113.9").await, 429);
    assert_eq!(status(proxy, "203.0.113.10").await, 200);
    // A client that bypasses the network cannot choose its address.
    assert_eq!(status(stranger, "203.0.113.11").await, 200);
    assert_eq!(status(stranger, "203.0.113.12").await, 429);
}

// rari, PostHog: behind a proxy, all clients were one.
#[tokio::test]
async fn clients_behind_a_trusted_proxy_are_not_one_client() {
    let policy = Policy::fixed_window("few", Quota::per_minute(1)).unwrap();
    let app = behind_one_proxy(policy).layer(service_fn(serve));
    for client in ["203.0.113.9", "203.0.113.10", "[2001:db8::1]:443"] {
        let response = app.clone().oneshot(request(client)).await.unwrap();
        assert_eq!(response.status(), 200, "{client}");
    }
}

// express-rate-limit: an address in its IPv6 form counted apart, and so did each address of a /56.
#[tokio::test]
async fn one_client_does_not_count_as_many_by_writing_its_address_in_other_ways() {
    let policy = Policy::fixed_window("few", Quota::per_minute(1)).unwrap();
    let app = behind_one_proxy(policy).layer(service_fn(serve));
    for forms in [
        ["203.0.113.9", "::ffff:203.0.113.9", "203.0.113.9:80"],
        ["2001:db8::1.2.3.4", "2001:db8::2", "[2001:db8:0:ff::1]:80"],
    ] {
        let mut statuses = Vec::new();
        for form in forms {
            let response = app.clone().oneshot(request(form)).await.unwrap();
            statuses.push(response.status().as_u16());
        }
        assert_eq!(statuses, [200, 429, 429], "{forms:?}");
    }
}

// tower's own limiter: each clone of a service counted for itself.
#[tokio::test]
async fn clones_of_a_service_do_not_each_have_a_quota() {
    let policy = Policy::fixed_window("few", Quota::per_minute(5)).unwrap();
    let layer = behind_one_proxy(policy);
    let (one, other) = (
        layer.layer(service_fn(serve)),
        layer.clone().layer(service_fn(serve)),
    );
    let mut admitted = 0;
    for _ in 0..10 {
        for app in [one.clone(), other.clone()] {
            let response = app.oneshot(request("203.0.113.9")).await.unwrap();
            admitted += u32::from(response.status() == 200);
        }
    }
    assert_eq!(admitted, 5);
}

// tower_governor: bodies other than axum's did not compile.
#[tokio::test]
async fn no_body_type_is_asked_of_the_user() {
    let policy = || Policy::fixed_window("few", Quota::per_minute(5)).unwrap();
    let layer = behind_one_proxy(policy());
    let boxed = layer.layer(service_fn(async |_: Request<String>| {
        let body = Full::new(Bytes::from("boxed")).boxed();
        Ok::<_, Infallible>(Response::new(body))
    }));
    let mut asked = Request::new(String::new());
    asked.extensions_mut().insert(peer([10, 0, 0, 1]));
    let response: Response<ResponseBody<_>> = boxed.oneshot(asked).await.unwrap();
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "boxed"
    );

    // No body at all, on either side, as a limiter of other messages has.
    let mut bare = layer.layer(service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(()))
    }));
    let mut asked = Request::new(());
    asked.extensions_mut().insert(peer([10, 0, 0, 2]));
    assert_eq!(
        bare.ready()
            .await
            .unwrap()
            .call(asked)
            .await
            .unwrap()
            .status(),
        200
    );
}

// @upstash/ratelimit: a denied costly request drove the bucket below zero, for 115 days.
#[test]
fn a_denied_costly_request_does_not_drive_the_quota_below_zero() {
    for mut client in each(10, secs(10)) {
        assert!(client.take(8));
        for _ in 0..50 {
            assert!(!client.take(5), "{}", client.policy.name());
        }
        assert_eq!(client.left(), 2, "{}", client.policy.name());
        assert!(client.take(2), "{}", client.policy.name());
    }
}

// @upstash/ratelimit, cozy-stack: a counter without an expiry locked its client out for ever.
#[test]
fn clients_recover_within_two_windows() {
    for mut client in each(10, secs(10)) {
        client.admitted_of(100);
        client.wait(secs(20));
        assert_eq!(client.left(), 10, "{}", client.policy.name());
        assert!(
            !client.state.is_alive(client.now),
            "{}",
            client.policy.name()
        );
    }
}

// express-rate-limit, fiber: a refund in the next window made its count negative.
#[tokio::test]
async fn a_late_refund_does_not_admit_more_than_the_limit() {
    for policy in each(10, secs(10)).map(|client| client.policy) {
        let clock = ManualClock::default();
        let store = MemoryStore::with_clock(clock.clone());
        let key = RateLimitStore::keys(&store).space("test").short().finish();
        let charge = [Charge::new(&policy, 10)];
        let paid = store.take(&key, &charge).await.unwrap().each()[0].receipt();
        clock.advance(secs(20));
        let refund = [Refund::new(&policy, paid, 10)];
        store.refund(&key, &refund).await.unwrap();
        assert!(store.take(&key, &charge).await.unwrap().is_admitted());
        store.refund(&key, &refund).await.unwrap();
        let again = store.take(&key, &charge).await.unwrap();
        assert!(!again.is_admitted(), "{}", policy.name());
    }
}

#[test]
fn a_receipt_of_nothing_refunds_nothing() {
    for mut client in each(10, secs(10)) {
        client.take(10);
        let (policy, now) = (&client.policy, client.now);
        client.state = policy.refund(client.state, now, Receipt::default(), 10);
        assert_eq!(client.left(), 0, "{}", client.policy.name());
    }
}

// shenyu: each request moved the end of its window on, which so never came.
#[test]
fn repeated_attempts_do_not_postpone_the_window_end() {
    for mut client in each(10, secs(10)) {
        client.admitted_of(10);
        for _ in 0..200 {
            client.wait(Duration::from_millis(100)).take(1);
        }
        let mut admitted = 0;
        for _ in 0..200 {
            admitted += client.wait(Duration::from_millis(100)).admitted_of(1);
        }
        assert!(
            (18..=22).contains(&admitted),
            "{}: {admitted}",
            client.policy.name()
        );
    }
}

// ASP.NET Core: the whole window was announced, however little of it was left.
#[test]
fn the_wait_is_not_the_whole_window() {
    let quota = Quota::new(2, secs(10));
    let mut client = Client::new(Policy::fixed_window("window", quota).unwrap());
    client.take(2);
    client.wait(secs(7));
    assert_eq!(client.retry_after(1), Some(secs(3)));
}

// Python limits: the reset followed from the newest request instead of the oldest.
#[tokio::test]
async fn a_log_frees_a_place_when_its_oldest_request_leaves_the_window() {
    let clock = ManualClock::default();
    let store = MemoryStore::with_clock(clock.clone());
    let key = RateLimitStore::keys(&store).space("test").short().finish();
    let policy = Policy::sliding_log("log", Quota::new(2, secs(10))).unwrap();
    let charge = [Charge::new(&policy, 1)];
    for _ in 0..2 {
        assert!(store.take(&key, &charge).await.unwrap().is_admitted());
        clock.advance(secs(4));
    }
    let denied = store.take(&key, &charge).await.unwrap();
    assert_eq!(denied.each()[0].retry_after(), Some(secs(2)));
    assert_eq!(denied.each()[0].reset_after(), secs(6));
}

// governor: one more than the burst came through after a pause. throttlecrab: seven more.
#[test]
fn no_pause_gives_more_than_the_quota_at_once() {
    for mut client in each(10, secs(10)) {
        client.admitted_of(10);
        for pause in [1, 7, 17, 100, 86_400] {
            client.wait(secs(pause));
            assert!(client.left() <= 10, "{}", client.policy.name());
            assert!(client.admitted_of(100) <= 10, "{}", client.policy.name());
        }
    }
}

// @upstash/ratelimit: a limit of one admitted no request.
#[test]
fn a_limit_of_one_admits_one() {
    for mut client in each(1, secs(10)) {
        assert_eq!(client.admitted_of(5), 1, "{}", client.policy.name());
    }
}

// Python limits: after a costly request, a cheap one slipped through.
#[test]
fn nothing_slips_through_after_a_costly_request() {
    for mut client in each(10, secs(10)) {
        assert!(client.take(10));
        assert!(!client.take(1), "{}", client.policy.name());
    }
}

// governor and its layers: a key was stored for each client until an explicit sweep.
#[test]
fn a_flood_of_new_clients_does_not_make_the_memory_grow() {
    let store = MemoryStore::builder()
        .clock(ManualClock::default())
        .max_rate_limit_partitions(1_000)
        .build()
        .unwrap();
    let policy = Policy::token_bucket("bucket", Quota::per_minute(2)).unwrap();
    let space = RateLimitStore::keys(&store).space("test");
    let take = |client: u64| {
        let charge = [Charge::new(&policy, 1)];
        let key = space.short_key(&client.to_le_bytes());
        store.take(&key, &charge).into_ready().ready().unwrap()
    };
    assert!(take(0).unwrap().is_admitted() && take(0).unwrap().is_admitted());
    let grown = allocation_counter::measure(|| {
        for client in 1..20_000 {
            drop(take(client));
            if client % 1_000 == 0 {
                assert!(
                    !take(0).unwrap().is_admitted(),
                    "{client} clients reset one"
                );
            }
        }
    });
    assert_eq!(grown.bytes_current, 0);
}

// pingora-limits: a subtraction wrapped in the first second, and panicked where threads raced.
#[test]
fn a_clock_that_has_just_begun_makes_nothing_panic() {
    for mut client in each(10, secs(10)) {
        client.now = Timestamp::EPOCH;
        assert_eq!(client.admitted_of(20), 10, "{}", client.policy.name());
        client.now = Timestamp::from_micros(1);
        assert_eq!(client.admitted_of(20), 0, "{}", client.policy.name());
        client.now = Timestamp::EPOCH;
        assert_eq!(client.admitted_of(20), 0, "{}", client.policy.name());
        client.wait(secs(20));
        assert_eq!(client.admitted_of(20), 10, "{}", client.policy.name());
    }
}

// rate-limiter-flexible: a window was cut to whole seconds.
#[test]
fn a_window_that_is_no_whole_number_of_seconds_is_not_cut() {
    for mut client in each(1, Duration::from_millis(1_500)) {
        // Half of a window of the clock is left.
        client.now = Timestamp::from_micros(1_500_000_000);
        assert!(client.take(1));
        client.wait(Duration::from_millis(1_499));
        assert!(!client.take(1), "{}", client.policy.name());
        client.wait(Duration::from_millis(1_501));
        assert!(client.take(1), "{}", client.policy.name());
    }
}

// bucket4j: tokens overflowed after twelve idle hours. traefik: the expiry did.
#[test]
fn no_idle_time_makes_the_numbers_overflow() {
    for mut client in each(1_000, secs(60)) {
        client.take(1_000);
        client.now = Timestamp::from_micros(u64::MAX);
        assert_eq!(client.left(), 1_000, "{}", client.policy.name());
        assert_eq!(client.admitted_of(2_000), 1_000, "{}", client.policy.name());
    }
}

// redis-cell: a rate beyond one in a microsecond limited nothing.
#[test]
fn a_very_high_rate_is_still_a_limit() {
    let mut client = bucket(Quota::per_second(50_000_000));
    assert!(client.take(50_000_000));
    assert!(!client.take(1));
    client.wait(Duration::from_micros(1));
    assert_eq!(client.left(), 50);
}

// gubernator: the bucket was full again after each duration, or what dripped was lost by rounding.
#[test]
fn a_bucket_gains_at_its_rate_and_neither_more_nor_less() {
    for policy in [
        Policy::token_bucket("token", Quota::new(7, secs(10))).unwrap(),
        Policy::leaky_bucket("leaky", Quota::new(7, secs(10))).unwrap(),
    ] {
        let mut client = Client::new(policy);
        client.take(7);
        let mut admitted = 0;
        for _ in 0..100_000 {
            client.wait(Duration::from_micros(997));
            admitted += u64::from(client.take(1));
        }
        // 7 in 10 s, for 99.7 s.
        assert_eq!(admitted, 69, "{}", client.policy.name());
    }
}

// traefik: usage was evicted before the bucket was full again.
#[test]
fn bucket_that_is_not_full_is_not_evicted() {
    let mut client = bucket(Quota::per_second(1).burst(100));
    assert_eq!(client.admitted_of(200), 100);
    assert_eq!(client.wait(secs(1)).admitted_of(200), 1);
    assert_eq!(client.wait(secs(3)).admitted_of(200), 3);
}

// envoy ratelimit: denied requests counted, so a raised limit had no effect in the same window.
#[test]
fn denials_do_not_count_against_a_raised_limit() {
    let mut client = Client::new(Policy::fixed_window("w", Quota::per_minute(10)).unwrap());
    client.admitted_of(1_000);
    client.policy = Policy::fixed_window("w", Quota::per_minute(15)).unwrap();
    assert_eq!(client.admitted_of(100), 5);
}

// better-auth: address and path were joined without anything between them.
#[tokio::test]
async fn two_partitions_do_not_meet_by_the_way_in_which_they_are_joined() {
    let part = |name| Partition::header(HeaderName::from_static(name));
    let store = MemoryStore::with_clock(ManualClock::default());
    let layer = RateLimitLayer::builder(store, part("a").and(part("b")))
        .policy(Policy::fixed_window("one", Quota::per_minute(1)).unwrap())
        .build()
        .unwrap();
    let app = layer.layer(service_fn(serve));
    for (a, b) in [("1", "23"), ("12", "3"), ("123", ""), ("", "123")] {
        let mut request = Request::new(Full::<Bytes>::default());
        request.headers_mut().insert("a", a.parse().unwrap());
        request.headers_mut().insert("b", b.parse().unwrap());
        let response = app.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200, "{a:?} and {b:?}");
    }
}

// redis_rate, governor: "17 in 30 s" admitted 32.
#[test]
fn a_bucket_without_a_burst_of_its_own_admits_no_more_than_its_rate() {
    let mut client = bucket(Quota::new(17, secs(30)).burst(1));
    let mut admitted = 0;
    for _ in 0..3_000 {
        admitted += client.admitted_of(1);
        client.wait(Duration::from_millis(10));
    }
    assert_eq!(admitted, 17);
}

// redis-gcra, Redis: a cost above the burst gave numbers that contradicted one another.
#[test]
fn unsatisfiable_cost_is_reported_and_not_charged() {
    for mut client in each(10, secs(10)) {
        client.take(4);
        let (never, _) = client.policy.decide(client.state, client.now, 11);
        assert!(never.is_unsatisfiable());
        assert_eq!(never.retry_after(), None);
        assert_eq!(never.remaining(), 6, "{}", client.policy.name());
        assert!(!client.take(11));
        assert_eq!(client.left(), 6, "{}", client.policy.name());
    }
}
