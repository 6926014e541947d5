//! Rate limits on Redis: exact for any number of instances, and no key for ever.

use std::{
    convert::Infallible,
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use portcullis::{
    StoreErrorKind,
    rate_limit::{Partition, Policy, Quota, RateLimitLayer, RateLimitStore, SyncMode},
    store::{
        RedisConfig, RedisStore,
        backend::{Charge, Refund, StoreKey},
    },
};

use tower::{Layer, ServiceExt, service_fn};

use crate::support::{
    get,
    process::{Example, call},
    redis::{Fault, Proxy, Reply, Server, keys, patient},
};

fn store(server: &Server) -> RedisStore {
    RedisStore::new(patient(RedisConfig::single(server.url())), keys()).unwrap()
}

/// A store that asks the server each time.
fn asking(server: &Server) -> RedisStore {
    let config = patient(RedisConfig::single(server.url())).max_cached_denials(0);
    RedisStore::new(config, keys()).unwrap()
}

fn partition(number: u64) -> StoreKey {
    keys().space("test").short_key(&number.to_le_bytes())
}

fn each(limit: u64) -> Vec<Policy> {
    let quota = Quota::per_hour(limit);
    vec![
        Policy::fixed_window("anchored", quota).unwrap(),
        Policy::aligned_window("aligned", quota).unwrap(),
        Policy::calendar_month("month", limit).unwrap(),
        Policy::sliding_window("sliding", quota).unwrap(),
        Policy::token_bucket("token", quota).unwrap(),
        Policy::leaky_bucket("leaky", quota).unwrap(),
        Policy::leaky_queue("queue", quota.burst(limit), Duration::from_micros(1)).unwrap(),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_instances_with_64_tasks_each_admit_exactly_the_limit() {
    let server = Server::start();
    let stores: Vec<RedisStore> = (0..8).map(|_| store(&server)).collect();
    let mut number = 0;
    for limit in [1, 7, 1_000] {
        let mut policies = each(limit);
        policies.push(Policy::sliding_log("log", Quota::per_hour(limit)).unwrap());
        let mixed = policies.clone();
        for policies in policies.into_iter().map(|one| vec![one]).chain([mixed]) {
            number += 1;
            let (policies, partition) = (Arc::new(policies), partition(number));
            let mut tasks = Vec::new();
            for task in 0..8 * 64 {
                let (store, policies) = (stores[task % 8].clone(), Arc::clone(&policies));
                tasks.push(tokio::spawn(async move {
                    let charges: Vec<_> = policies.iter().map(|p| Charge::new(p, 1)).collect();
                    let mut admitted = 0;
                    // Together all ask for more than the limit.
                    for _ in 0..3 {
                        let decisions = store.take(&partition, &charges).await.unwrap();
                        admitted += u64::from(decisions.is_admitted());
                    }
                    admitted
                }));
            }
            let mut admitted = 0;
            for task in tasks {
                admitted += task.await.unwrap();
            }
            // A bucket of a thousand in an hour gains one in 3.6 seconds.
            let gained = if policies.len() == 1 && "token leaky queue".contains(policies[0].name())
            {
                limit / 500
            } else {
                0
            };
            let name = policies[0].name();
            assert!(
                (limit..=limit + gained).contains(&admitted),
                "{admitted} by {name}"
            );
        }
    }
    assert_eq!(server.keys_without_expiry(), [""; 0]);
}

#[tokio::test]
async fn script_flush_fails_no_call() {
    let server = Server::start();
    let (store, policy) = (
        store(&server),
        Policy::fixed_window("p", Quota::per_hour(9)).unwrap(),
    );
    for round in 0..3 {
        server.ask(&["SCRIPT", "FLUSH"]);
        let taken = store.take(&partition(1), &[Charge::new(&policy, 1)]).await;
        assert_eq!(taken.unwrap().each()[0].remaining(), 8 - round);
    }
    assert_eq!(
        (server.calls_of("eval"), server.calls_of("evalsha")),
        (3, 3)
    );
}

#[tokio::test]
async fn several_policies_are_one_command_and_one_key() {
    let server = Server::start();
    let (store, policies) = (store(&server), each(100));
    let charges: Vec<_> = policies
        .iter()
        .map(|policy| Charge::new(policy, 1))
        .collect();
    for _ in 0..50 {
        assert!(
            store
                .take(&partition(1), &charges)
                .await
                .unwrap()
                .is_admitted()
        );
    }
    assert_eq!(
        (server.calls_of("eval"), server.calls_of("evalsha")),
        (1, 50)
    );
    let keys = server.keys();
    assert_eq!(
        keys.len(),
        2,
        "the partition's, and that of the probe: {keys:?}"
    );
}

#[tokio::test]
async fn a_key_is_gone_soon_after_its_states_are() {
    let server = Server::start();
    let quota = Quota::new(2, Duration::from_millis(50));
    let (store, policy) = (store(&server), Policy::token_bucket("p", quota).unwrap());
    store
        .take(&partition(1), &[Charge::new(&policy, 1)])
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert_eq!(server.keys(), [""; 0]);
}

#[tokio::test]
async fn bytes_that_are_no_state_are_taken_for_none() {
    let server = Server::start();
    let (store, policy) = (
        asking(&server),
        Policy::fixed_window("p", Quota::per_hour(2)).unwrap(),
    );
    let charge = [Charge::new(&policy, 2)];
    store.take(&partition(1), &charge).await.unwrap();
    let key = server
        .keys()
        .into_iter()
        .find(|key| key.contains(":l:"))
        .unwrap();
    let id = policy.id().to_le_bytes();
    for garbage in [&b"garbage"[..], &[0xff; 24], &[0; 24]] {
        let set: [&[u8]; 4] = [b"HSET", key.as_bytes(), &id, garbage];
        server.client().ask(&set).unwrap();
        assert!(
            store
                .take(&partition(1), &charge)
                .await
                .unwrap()
                .is_admitted()
        );
        assert!(
            !store
                .take(&partition(1), &charge)
                .await
                .unwrap()
                .is_admitted()
        );
    }
}

#[tokio::test]
async fn two_gateways_on_one_server_are_one_and_serve_on_without_it() {
    let server = Server::start();
    let secret = "a secret of at least 32 bytes that both instances share";
    let url = server.url();
    let variables = [
        ("REDIS_URL", url.as_str()),
        ("STORE_SECRET", secret),
        ("PEPPER", secret),
    ];
    let mut gateways = [0, 1].map(|_| Example::start_with("gateway", &variables));
    let addrs = [gateways[0].addr(), gateways[1].addr()];
    // The gateways share their keys and their cached responses.
    let key = gateways[0].said_after("pro key: ");
    let key = [("x-api-key", key.as_str())];
    let until_hit = async |addr| {
        let begun = Instant::now();
        loop {
            let response = call(addr, Method::GET, "/data", &key).await;
            // On a busy machine the server may reply late, and then no key can be verified.
            let known = [StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE];
            assert!(known.contains(&response.status), "{}", response.status);
            let status = response.header("cache-status").unwrap_or_default();
            if status.contains("; hit") {
                return response.body.clone();
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "never kept");
        }
    };
    // A gateway whose lookup timed out has stored its own response, which both then serve.
    let begun = Instant::now();
    while until_hit(addrs[0]).await != until_hit(addrs[1]).await {
        assert!(begun.elapsed() < Duration::from_secs(10), "never the same");
    }
    // Both count together.
    let (mut admitted, mut begun) = (0, Instant::now());
    for number in 0..320 {
        let response = call(addrs[number % 2], Method::GET, "/public", &[]).await;
        if number == 0 {
            begun = Instant::now();
        }
        admitted += u64::from(response.status == StatusCode::OK);
    }
    // 300 in ten seconds for one address: where the machine is slow, a window or more have passed.
    let windows = begun.elapsed().as_secs() / 10 + 1;
    assert!((250..=300 * windows).contains(&admitted), "{admitted}");
    let kinds = [":k:{", ":l:{", ":c:{", ":log:access"];
    let begun = Instant::now();
    while !kinds
        .iter()
        .all(|kind| server.keys().iter().any(|name| name.contains(kind)))
    {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{:?}",
            server.keys()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.kill();
    for addr in addrs {
        let response = call(addr, Method::GET, "/public", &[]).await;
        // A repeated denial stays in effect until `retry_after` elapses, and no request gets 503.
        assert_ne!(response.status, StatusCode::SERVICE_UNAVAILABLE);
    }
}

#[tokio::test]
async fn repeated_denials_are_answered_locally_until_retry_after() {
    let server = Server::start();
    let store = store(&server);
    let quota = Quota::new(2, Duration::from_millis(600));
    let policy = Policy::fixed_window("p", quota).unwrap();
    let other = Policy::token_bucket("other", Quota::per_hour(50)).unwrap();
    let charges = [Charge::new(&policy, 1), Charge::new(&other, 1)];
    let first = store.take(&partition(1), &charges).await.unwrap();
    assert!(
        store
            .take(&partition(1), &charges)
            .await
            .unwrap()
            .is_admitted()
    );
    let denied = store.take(&partition(1), &charges).await.unwrap();
    assert_eq!(
        (denied.each()[0].remaining(), denied.each()[1].remaining()),
        (0, 48)
    );
    let asked = server.calls_of("evalsha");
    for _ in 0..100 {
        let again = store.take(&partition(1), &charges).await.unwrap();
        assert!(!again.is_admitted());
        assert_eq!(again.each()[1].remaining(), 48);
        assert!(again.each()[0].retry_after() <= denied.each()[0].retry_after());
    }
    assert_eq!(server.calls_of("evalsha"), asked);
    assert_eq!(store.stats().local_denials, 100);
    // A refund ends the local denials.
    let refund = Refund::new(&policy, first.each()[0].receipt(), 1);
    store.refund(&partition(1), &[refund]).await.unwrap();
    assert!(
        store
            .take(&partition(1), &charges)
            .await
            .unwrap()
            .is_admitted()
    );
    // And so does the time.
    let denied = store.take(&partition(1), &charges).await.unwrap();
    let wait = denied.each()[0].retry_after().unwrap();
    tokio::time::sleep(wait + Duration::from_millis(1)).await;
    assert!(
        store
            .take(&partition(1), &charges)
            .await
            .unwrap()
            .is_admitted()
    );
}

#[tokio::test]
async fn rejection_by_one_instance_ends_soon_after_another_one_refunds() {
    let server = Server::start();
    let instance = || {
        RateLimitLayer::builder(store(&server), Partition::method())
            .policy(Policy::fixed_window("p", Quota::per_hour(1)).unwrap())
            .charge_if(|response, _| response.status == StatusCode::UNAUTHORIZED)
            .build()
            .unwrap()
    };
    let (one, two) = (instance(), instance());
    let inner = service_fn(async |_: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    let two = two.layer(inner);
    // While the one request is in flight, the other instance rejects another one.
    let concurrent = two.clone();
    let outer = one.layer(service_fn(move |_: Request<Full<Bytes>>| {
        concurrent.clone().oneshot(get("/"))
    }));
    let rejected = outer.oneshot(get("/")).await.unwrap();
    assert_eq!(rejected.status(), StatusCode::TOO_MANY_REQUESTS);
    let wait = rejected.headers()["retry-after"].to_str().unwrap();
    assert!(wait.parse::<u64>().unwrap() > 60);
    let begun = Instant::now();
    while two.clone().oneshot(get("/")).await.unwrap().status() != StatusCode::OK {
        assert!(begun.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Lets eight tasks of each store take until they are denied, and returns the number admitted.
async fn contest(stores: &[RedisStore], policy: &Policy, partition: StoreKey) -> u64 {
    let mut tasks = Vec::new();
    for task in 0..8 * stores.len() {
        let (store, policy) = (stores[task % stores.len()].clone(), policy.clone());
        tasks.push(tokio::spawn(async move {
            let (mut admitted, mut denied) = (0_u64, 0);
            while denied < 3 {
                let charge = [Charge::new(&policy, 1)];
                let taken = store.take(&partition, &charge).await.unwrap();
                admitted += u64::from(taken.is_admitted());
                denied += u64::from(!taken.is_admitted());
                assert!(taken.each()[0].remaining() < policy.capacity());
                tokio::task::yield_now().await;
            }
            admitted
        }));
    }
    let mut admitted = 0;
    for task in tasks {
        admitted += task.await.unwrap();
    }
    admitted
}

fn leased(policy: Policy) -> Policy {
    let instances = NonZeroU32::new(8).unwrap();
    policy.with_sync_mode(SyncMode::Leased { instances })
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_of_eight_instances_never_admit_more_than_the_limit_of_a_window() {
    let server = Server::start();
    let stores: Vec<RedisStore> = (0..8).map(|_| store(&server)).collect();
    let quota = Quota::per_hour(1_000);
    for (number, policy) in [
        Policy::fixed_window("anchored", quota).unwrap(),
        Policy::aligned_window("aligned", quota).unwrap(),
        Policy::calendar_month("month", 1_000).unwrap(),
        Policy::sliding_window("sliding", quota).unwrap(),
    ]
    .into_iter()
    .enumerate()
    {
        let admitted = contest(&stores, &leased(policy.clone()), partition(number as u64)).await;
        // The last lease may remain partly unused.
        assert!(
            (900..=1_000).contains(&admitted),
            "{admitted} by {}",
            policy.name()
        );
    }
    assert_eq!(server.keys_without_expiry(), [""; 0]);
}

#[tokio::test]
async fn one_busy_instance_asks_once_for_many_and_gives_back_what_lies_idle() {
    let server = Server::start();
    let (one, other) = (store(&server), store(&server));
    for (number, policy) in [
        Policy::fixed_window("window", Quota::per_hour(10_000)).unwrap(),
        Policy::token_bucket("bucket", Quota::per_hour(10_000)).unwrap(),
    ]
    .into_iter()
    .map(leased)
    .enumerate()
    {
        let partition = partition(number as u64);
        let charge = [Charge::new(&policy, 1)];
        let asked = server.calls_of("evalsha");
        for _ in 0..1_000 {
            let taken = one.take(&partition, &charge).await.unwrap();
            assert!(taken.is_admitted());
        }
        let asked = server.calls_of("evalsha") - asked;
        assert!(asked <= 20, "{asked} questions for a thousand requests");
        let left = async || other.peek(&partition, &charge).await.unwrap().each()[0].remaining();
        assert!(left().await < 8_999);
        tokio::time::sleep(Duration::from_millis(2_600)).await;
        // A bucket has gained some since.
        let left = left().await;
        assert!((8_999..9_020).contains(&left), "{left}");
    }
    // And when the store is closed.
    let policy = leased(Policy::fixed_window("last", Quota::per_hour(10_000)).unwrap());
    let charge = [Charge::new(&policy, 1)];
    assert!(
        one.take(&partition(9), &charge)
            .await
            .unwrap()
            .is_admitted()
    );
    one.close().await;
    let left = other.peek(&partition(9), &charge).await.unwrap();
    assert_eq!(left.each()[0].remaining(), 9_998);
}

fn deferred(policy: Policy, most: u32) -> Policy {
    let most = NonZeroU32::new(most).unwrap();
    policy.with_sync_mode(SyncMode::Deferred {
        max_unreported: most,
    })
}

/// Returns what a server has counted, as numbers, of the one policy of the one partition there.
fn counted(server: &Server, policy: &Policy) -> [f64; 3] {
    let keys = server.keys();
    let key = keys.iter().find(|key| key.contains(":l:")).unwrap();
    let id = policy.id().to_le_bytes();
    let get: [&[u8]; 3] = [b"HGET", key.as_bytes(), &id];
    let Some(Reply::Bulk(state)) = server.client().ask(&get) else {
        panic!("nothing is counted");
    };
    let words = state.as_chunks::<8>().0;
    [0, 1, 2].map(|word| f64::from_le_bytes(words[word]))
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_deferred_instances_stay_within_the_bound_and_charge_all() {
    let server = Server::start();
    let quota = Quota::per_hour(1_000);
    for policy in [
        Policy::fixed_window("anchored", quota).unwrap(),
        Policy::sliding_window("sliding", quota).unwrap(),
        Policy::token_bucket("token", quota).unwrap(),
    ] {
        for most in [1, 16] {
            server.ask(&["FLUSHALL"]);
            let stores: Vec<RedisStore> = (0..8).map(|_| store(&server)).collect();
            let policy = deferred(policy.clone(), most);
            let admitted = contest(&stores, &policy, partition(u64::from(most))).await;
            let (bound, name) = (policy.max_over_admission(8), policy.name());
            assert_eq!(bound, u64::from(8 * most));
            // No take is denied while some quota is left; a bucket gains one token in 3.6 seconds.
            let gained = if name == "token" { 10 } else { 0 };
            assert!(
                (1_000..=1_000 + bound + gained).contains(&admitted),
                "{admitted} by {name} with up to {most} deferred"
            );
            for store in &stores {
                store.close().await;
            }
            if name != "token" {
                let [_, used, _] = counted(&server, &policy);
                assert_eq!(used, admitted as f64, "by {name}");
            }
            assert_eq!(server.keys_without_expiry(), [""; 0]);
        }
    }
}

#[tokio::test]
async fn deferred_charges_are_reported_at_half_the_maximum_or_after_1_s() {
    let server = Server::start();
    let (one, other) = (store(&server), store(&server));
    let policy = deferred(
        Policy::fixed_window("window", Quota::per_hour(10_000)).unwrap(),
        100,
    );
    let (partition, charge) = (partition(1), [Charge::new(&policy, 1)]);
    for _ in 0..1_010 {
        assert!(one.take(&partition, &charge).await.unwrap().is_admitted());
        // Deferred charges are reported in the background.
        tokio::task::yield_now().await;
    }
    let asked = server.calls_of("evalsha");
    // About twenty; on a busy machine a reply comes late, and more requests call the server.
    assert!(asked <= 100, "{asked} questions for a thousand requests");
    let begun = Instant::now();
    loop {
        let left = other.peek(&partition, &charge).await.unwrap();
        if left.each()[0].remaining() == 10_000 - 1_011 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{left:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn deferred_charges_during_an_outage_are_bounded_and_reported_later() {
    let server = Server::start();
    let policy = deferred(
        Policy::aligned_window("window", Quota::per_hour(1_000)).unwrap(),
        10,
    );
    let (store, partition, charge) = (store(&server), partition(1), [Charge::new(&policy, 1)]);
    assert!(store.take(&partition, &charge).await.unwrap().is_admitted());
    server.kill();
    let mut admitted = 0;
    while store.take(&partition, &charge).await.is_ok() {
        admitted += 1;
        tokio::task::yield_now().await;
    }
    // A report in flight as the server died may have been charged, and still counts.
    assert!((5..=10).contains(&admitted), "{admitted}");
    server.restart();
    let begun = Instant::now();
    while server.keys().iter().all(|key| !key.contains(":l:")) {
        assert!(begun.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let [_, used, _] = counted(&server, &policy);
    assert!((5.0..=10.0).contains(&used), "{used}");
}

#[tokio::test]
async fn leases_deny_few_wrongly_while_traffic_shifts_between_instances() {
    const LIMIT: u32 = 2_000;
    let server = Server::start();
    let stores: Vec<RedisStore> = (0..4).map(|_| store(&server)).collect();
    let four = NonZeroU32::new(4).unwrap();
    let policy = Policy::calendar_month("p", LIMIT.into())
        .unwrap()
        .with_sync_mode(SyncMode::Leased { instances: four });
    let (partition, charge) = (partition(1), [Charge::new(&policy, 1)]);
    // All that the limit has is asked for within six seconds, of one instance, of another, and of
    // all: each denial is one too much.
    let (mut denied, begun) = (0, Instant::now());
    for number in 0..LIMIT {
        let store = match number * 4 / LIMIT {
            0 => &stores[0],
            1 => &stores[number as usize % 4],
            2 => &stores[3],
            _ => &stores[number as usize % 2],
        };
        let due = Duration::from_secs(6) * number / LIMIT;
        if let Some(early) = due.checked_sub(begun.elapsed()) {
            tokio::time::sleep(early).await;
        }
        let taken = store.take(&partition, &charge).await.unwrap();
        denied += u32::from(!taken.is_admitted());
    }
    println!("{denied} of {LIMIT} wrongly denied");
    assert!(denied <= LIMIT / 20, "{denied}");
}

#[tokio::test]
async fn partition_memory_matches_the_guide() {
    let server = Server::start();
    let store = store(&server);
    let policies = each(100);
    let usage = async |policies: &[Policy]| {
        server.ask(&["FLUSHALL"]);
        let charges: Vec<_> = policies.iter().map(|p| Charge::new(p, 1)).collect();
        store.take(&partition(1), &charges).await.unwrap();
        let keys = server.keys();
        let key = keys.iter().find(|key| key.contains(":l:")).unwrap();
        server
            .ask(&["MEMORY", "USAGE", key, "SAMPLES", "0"])
            .as_int()
    };
    for policy in &policies {
        let bytes = usage(std::slice::from_ref(policy)).await;
        println!("{}: {bytes} bytes", policy.name());
        assert!((100..=200).contains(&bytes), "{}: {bytes}", policy.name());
    }
    let log = Policy::sliding_log("log", Quota::per_hour(1_000)).unwrap();
    for requests in [1, 100] {
        server.ask(&["FLUSHALL"]);
        for _ in 0..requests {
            let taken = store.take(&partition(1), &[Charge::new(&log, 1)]).await;
            assert!(taken.unwrap().is_admitted());
        }
        let key = server.keys().remove(0);
        let usage = server.ask(&["MEMORY", "USAGE", &key, "SAMPLES", "0"]);
        let bytes = usage.as_int();
        println!("a log of {requests}: {bytes} bytes");
        let most = 300 + 20 * requests;
        assert!((200..=most).contains(&bytes), "{bytes} of {requests}");
    }
    let bytes = usage(&policies[..3]).await;
    println!("three policies: {bytes} bytes");
    assert!((170..=280).contains(&bytes), "{bytes}");
}

#[tokio::test]
async fn lease_whose_reply_was_lost_is_returned_by_the_next_question() {
    let server = Server::start();
    let proxy = Proxy::new(server.addr());
    let timeout = Duration::from_millis(250);
    let config = patient(RedisConfig::single(proxy.url())).rate_limit_timeout(timeout);
    let other = store(&server);
    let day = |limit| Quota::new(limit, Duration::from_secs(86_400));
    for (number, policies) in [
        [
            Policy::fixed_window("anchored", day(1_000)).unwrap(),
            Policy::sliding_window("sliding", day(500)).unwrap(),
        ],
        [
            Policy::calendar_month("month", 1_000).unwrap(),
            Policy::token_bucket("bucket", day(500)).unwrap(),
        ],
    ]
    .into_iter()
    .enumerate()
    {
        let store = RedisStore::new(config.clone(), keys()).unwrap();
        let (policies, partition) = (policies.map(leased), partition(number as u64));
        let charges = policies.each_ref().map(|it| Charge::new(it, 1));
        store.ping().await.unwrap();
        // The server knows the script.
        other.take(&self::partition(99), &charges).await.unwrap();
        // Three leases are granted, and none is received.
        for _ in 0..3 {
            proxy.set(Fault::HalfOpen);
            let error = store.take(&partition, &charges).await.unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Timeout, "{:?}", store.stats());
            proxy.set(Fault::Reset);
            proxy.set(Fault::None);
            tokio::time::sleep(Duration::from_millis(1_200)).await;
            while store.ping().await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        assert!(
            store
                .take(&partition, &charges)
                .await
                .unwrap()
                .is_admitted()
        );
        store.close().await;
        let free = policies.each_ref().map(|it| Charge::new(it, 0));
        let left = other.peek(&partition, &free).await.unwrap();
        let left = [0, 1].map(|policy| left.each()[policy].remaining());
        // The three charges whose replies were lost, and the one that was admitted.
        assert_eq!(left, [996, 496], "{number}");
    }
}
