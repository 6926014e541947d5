//! Rate limits on Redis: exact for any number of instances, and no key for ever.

use std::{sync::Arc, time::Duration};

use http::{Method, StatusCode};
use portcullis::{
    StoreKey, conformance,
    rate_limit::{Charge, Policy, Quota, RateLimitStore},
    store::{RedisConfig, RedisStore},
};

use crate::support::{
    process::{Example, call},
    redis::{Server, keys},
};

fn store(server: &Server) -> RedisStore {
    // Busy machines: what is proved here is arithmetic, not speed.
    let config = RedisConfig::single(server.url()).rate_limit_deadline(Duration::from_secs(10));
    RedisStore::new(config, keys()).unwrap()
}

fn partition(number: u64) -> StoreKey {
    keys().space("test").short_of(&number.to_le_bytes())
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

#[tokio::test]
async fn the_store_keeps_the_promises_of_limits() {
    let server = Server::start();
    let pause = async |time| tokio::time::sleep(time).await;
    conformance::rate_limit(&store(&server), pause).await;
    assert_eq!(server.keys_without_expiry(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_instances_with_64_tasks_each_admit_exactly_the_limit() {
    let server = Server::start();
    let stores: Vec<RedisStore> = (0..8).map(|_| store(&server)).collect();
    let mut number = 0;
    for limit in [1, 7, 1_000] {
        let policies = each(limit);
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
                        let answer = store.take(&partition, &charges).await.unwrap();
                        admitted += u64::from(answer.is_admitted());
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
async fn a_server_that_forgets_its_scripts_fails_no_call() {
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
        store(&server),
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
async fn two_gateways_on_one_server_share_a_limit_and_serve_on_without_it() {
    let mut server = Server::start();
    let secret = "a secret of at least 32 bytes that both instances share";
    let url = server.url();
    let variables = [("REDIS_URL", url.as_str()), ("STORE_SECRET", secret)];
    let mut gateways = [0, 1].map(|_| Example::start_with("gateway", &variables));
    let addrs = [gateways[0].addr(), gateways[1].addr()];
    let (mut admitted, mut begun) = (0, std::time::Instant::now());
    for number in 0..320 {
        let answer = call(addrs[number % 2], Method::GET, "/public", &[]).await;
        if number == 0 {
            begun = std::time::Instant::now();
        }
        admitted += u64::from(answer.status == StatusCode::OK);
    }
    // 300 in ten seconds for one address: where the machine is slow, a window or more have passed.
    let windows = begun.elapsed().as_secs() / 10 + 1;
    assert!((300..=300 * windows).contains(&admitted), "{admitted}");
    server.kill();
    for addr in addrs {
        let answer = call(addr, Method::GET, "/public", &[]).await;
        assert_eq!(answer.status, StatusCode::OK);
    }
}
