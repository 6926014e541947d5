//! Decisions on Redis that come while others are being made: together in one call, each as if it
//! came alone.

use std::{num::NonZeroU32, time::Duration};

use portcullis::{
    StoreErrorKind,
    rate_limit::{Policy, Quota, RateLimitStore, SyncMode},
    store::{
        RedisConfig, RedisStore,
        backend::{Charge, StoreKey},
    },
};
use tokio::task::JoinSet;

use crate::support::redis::{Fault, Proxy, Server, keys, patient};

/// The number of concurrent tasks.
const TASKS: u64 = 64;

fn store(url: String) -> RedisStore {
    RedisStore::new(patient(RedisConfig::single(url)), keys()).unwrap()
}

fn partition(number: u64) -> StoreKey {
    keys().space("batches").short_key(&number.to_le_bytes())
}

fn policies() -> [Policy; 2] {
    let quota = Quota::per_hour(1_000_000);
    [
        Policy::fixed_window("window", quota).unwrap(),
        Policy::sliding_window("sliding", quota).unwrap(),
    ]
}

/// Takes `times` times in each task, from the partition that `of` returns for its number. Counts
/// the admitted, the denied, and the errors.
async fn ask(
    store: &RedisStore,
    policies: &[Policy],
    times: u64,
    of: fn(u64) -> StoreKey,
) -> (u64, u64, Vec<StoreErrorKind>) {
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (store, policies, partition) = (store.clone(), policies.to_vec(), of(task));
        tasks.spawn(async move {
            let charges: Vec<_> = policies.iter().map(|p| Charge::new(p, 1)).collect();
            let (mut admitted, mut denied, mut errors) = (0, 0, Vec::new());
            for _ in 0..times {
                match store.take(&partition, &charges).await {
                    Ok(taken) if taken.is_admitted() => admitted += 1,
                    Ok(_) => denied += 1,
                    Err(error) => errors.push(error.kind()),
                }
            }
            (admitted, denied, errors)
        });
    }
    let (mut admitted, mut denied, mut errors) = (0, 0, Vec::new());
    for (yes, no, failed) in tasks.join_all().await {
        admitted += yes;
        denied += no;
        errors.extend(failed);
    }
    (admitted, denied, errors)
}

async fn used(store: &RedisStore, policy: &Policy, partition: &StoreKey) -> u64 {
    let peek = store.peek(partition, &[Charge::new(policy, 1)]).await;
    policy.capacity() - 1 - peek.unwrap().each()[0].remaining()
}

#[tokio::test]
async fn concurrent_requests_share_a_call_and_single_requests_do_not() {
    let server = Server::start();
    let (together, policies) = (store(server.url()), policies());
    let config = patient(RedisConfig::single(server.url())).max_batch(1);
    let apart = RedisStore::new(config, keys()).unwrap();
    let asked = async |store: &RedisStore, tasks: bool| {
        let before = server.calls_of("evalsha");
        if tasks {
            let (admitted, ..) = ask(store, &policies, 20, partition).await;
            assert_eq!(admitted, 20 * TASKS);
        } else {
            for _ in 0..20 {
                let charge = [Charge::new(&policies[0], 1)];
                assert!(store.take(&partition(0), &charge).await.is_ok());
            }
        }
        server.calls_of("evalsha") - before
    };
    // The server learns the scripts.
    asked(&together, true).await;
    assert_eq!(asked(&together, false).await, 20);
    assert_eq!(asked(&apart, true).await, 20 * TASKS);
    let calls = asked(&together, true).await;
    assert!(calls < 20 * TASKS / 4, "{calls} calls for {}", 20 * TASKS);
    // Three rounds of all tasks, and twenty of one.
    assert_eq!(used(&apart, &policies[0], &partition(0)).await, 80);
    assert_eq!(used(&apart, &policies[1], &partition(63)).await, 60);
    assert_eq!(together.stats().refused, 0);
    assert_eq!(server.keys_without_expiry(), [""; 0]);
}

#[tokio::test]
async fn many_at_once_take_no_more_ahead_than_a_few_and_leave_the_other_instances_theirs() {
    let server = Server::start();
    let [one, other] = [(); 2].map(|()| store(server.url()));
    let quota = Quota::per_hour(1_000_000);
    let policy = Policy::fixed_window("leased", quota)
        .unwrap()
        .with_sync_mode(SyncMode::Leased {
            instances: NonZeroU32::new(4).unwrap(),
        });
    let policies = [policy];
    let (admitted, ..) = ask(&one, &policies, 1, |_| partition(0)).await;
    assert_eq!(admitted, TASKS);
    // Each call takes an eighth of the remaining quota: four calls in flight, and those of the
    // others.
    let used = used(&other, &policies[0], &partition(0)).await;
    assert!(used < 600_000, "{used} are taken");
    // An instance returns an unused lease with one call.
    let calls = server.calls_of("evalsha");
    assert!(calls < TASKS / 2, "{calls} calls");
    let (admitted, ..) = ask(&other, &policies, 10, |_| partition(0)).await;
    assert_eq!(admitted, 10 * TASKS);
}

#[tokio::test]
async fn damaged_key_fails_only_its_own_requests() {
    let server = Server::start();
    let (store, [policy, _]) = (store(server.url()), policies());
    let charge = [Charge::new(&policy, 1)];
    let name = async |number| {
        let before = server.keys();
        store.take(&partition(number), &charge).await.unwrap();
        let mut after = server.keys();
        after.retain(|key| key.contains(":l:") && !before.contains(key));
        after.remove(0)
    };
    let (wrong, damaged) = (name(1).await, name(2).await);
    server.ask(&["DEL", &wrong]);
    server.ask(&["SET", &wrong, "no hash"]);
    server.ask(&["HSET", &damaged, "x", "no number"]);
    let (admitted, denied, errors) = ask(&store, &[policy], 10, partition).await;
    assert_eq!((admitted, denied), (10 * (TASKS - 1), 0));
    assert_eq!(errors, [StoreErrorKind::Corrupt; 10]);
    server.ask(&["DEL", &wrong]);
    assert_eq!(server.keys_without_expiry(), [""; 0]);
}

#[tokio::test]
async fn canceled_waiter_is_charged_at_most_once_and_affects_no_other() {
    let server = Server::start();
    let proxy = Proxy::new(server.addr());
    let (store, [policy, _]) = (store(proxy.url()), policies());
    let charge = [Charge::new(&policy, 1)];
    store.take(&partition(0), &charge).await.unwrap();
    // Answers are late, so that most wait for a call of others.
    proxy.set(Fault::Delay(Duration::from_millis(5)));
    let mut tasks = Vec::new();
    for _ in 0..TASKS {
        let (store, policy) = (store.clone(), policy.clone());
        tasks.push(tokio::spawn(async move {
            store.take(&partition(0), &[Charge::new(&policy, 1)]).await
        }));
    }
    let (mut gone, mut admitted) = (0, 1);
    for (number, task) in tasks.iter().enumerate() {
        tokio::task::yield_now().await;
        // The first are on their way themselves, of the others some wait.
        if number % 3 == 0 {
            task.abort();
        }
    }
    for task in tasks {
        match task.await {
            Ok(taken) => admitted += u64::from(taken.unwrap().is_admitted()),
            Err(_) => gone += 1,
        }
    }
    assert!(gone > 10, "{gone} went away");
    proxy.set(Fault::None);
    let used = used(&store, &policy, &partition(0)).await;
    assert!((admitted..=admitted + gone).contains(&used), "{used}");
    // And the store decides on.
    let (more, _, errors) = ask(&store, &[policy], 2, partition).await;
    assert_eq!((more, errors), (2 * TASKS, Vec::new()));
}

#[tokio::test]
async fn a_call_for_many_that_is_not_answered_charges_each_once_at_most() {
    let server = Server::start();
    let proxy = Proxy::new(server.addr());
    let long = Duration::from_secs(10);
    let config = patient(RedisConfig::single(proxy.url()))
        .rate_limit_timeout(Duration::from_millis(300))
        .idle_timeout(long);
    let store = RedisStore::new(config, keys()).unwrap();
    let [policy, _] = policies();
    let one = std::slice::from_ref(&policy);
    let (first, _, errors) = ask(&store, one, 1, |_| partition(0)).await;
    assert_eq!((first, errors), (TASKS, Vec::new()));
    proxy.set(Fault::HalfOpen);
    let (admitted, denied, errors) = ask(&store, one, 1, |_| partition(0)).await;
    assert_eq!((admitted, denied), (0, 0));
    assert_eq!(errors.len() as u64, TASKS);
    // Those that were on their way may have been charged; the others failed before they were sent.
    let known = [StoreErrorKind::Timeout, StoreErrorKind::Unavailable];
    assert!(errors.iter().all(|error| known.contains(error)));
    let direct = RedisStore::new(patient(RedisConfig::single(server.url())), keys()).unwrap();
    let charged = used(&direct, &policy, &partition(0)).await - TASKS;
    let unknown = errors
        .iter()
        .filter(|error| **error == StoreErrorKind::Timeout)
        .count();
    assert!(charged <= unknown as u64, "{charged} of {unknown}");
}

#[tokio::test]
async fn script_flush_during_batches_fails_no_request() {
    let server = Server::start();
    let (store, policies) = (store(server.url()), policies());
    let flushing = async {
        for _ in 0..20 {
            server.ask(&["SCRIPT", "FLUSH"]);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let asking = ask(&store, &policies, 30, |_| partition(0));
    let ((admitted, _, errors), ()) = tokio::join!(asking, flushing);
    assert_eq!((admitted, errors), (30 * TASKS, Vec::new()));
    assert_eq!(
        used(&store, &policies[1], &partition(0)).await,
        30 * TASKS,
        "each was charged once"
    );
}

#[test]
fn a_batch_of_none_or_of_more_than_a_byte_counts_is_refused() {
    for decisions in [0, 256] {
        let config = RedisConfig::single("redis://127.0.0.1:1").max_batch(decisions);
        let error = RedisStore::new(config, keys()).unwrap_err();
        assert_eq!(error.option(), "max_batch");
    }
}

#[tokio::test]
async fn caller_that_does_not_poll_blocks_no_other() {
    let server = Server::start();
    let (store, [policy, _]) = (store(server.url()), policies());
    let charge = [Charge::new(&policy, 1)];
    store.take(&partition(0), &charge).await.unwrap();
    // All calls are sent, and none has read its reply.
    let mut away: Vec<_> = (0..8)
        .map(|number| store.take(&partition(number), &charge))
        .collect();
    for taking in &mut away {
        assert!(poll_once(taking).is_pending());
    }
    let begun = std::time::Instant::now();
    let (admitted, _, errors) = ask(&store, std::slice::from_ref(&policy), 5, partition).await;
    assert_eq!((admitted, errors), (5 * TASKS, Vec::new()));
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    for taking in away {
        assert!(taking.await.unwrap().is_admitted());
    }
}

/// Polls a future once.
fn poll_once<F: Future + Unpin>(future: &mut F) -> std::task::Poll<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    std::pin::Pin::new(future).poll(&mut context)
}
