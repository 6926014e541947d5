//! The bounds of limits while connections to a Redis server freeze and reset.

use std::{
    convert::Infallible,
    num::NonZeroU32,
    time::{Duration, Instant},
};

use http::{HeaderName, Request, Response, StatusCode};
use portcullis::{
    outcome::RecordHandle,
    rate_limit::{
        OnStoreError, Partition, Policy, Quota, RateLimitLayer, RateLimitStore, SyncMode,
    },
    store::{MemoryStore, RedisConfig, RedisStore, backend::Charge},
};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::redis::{Fault, Proxy, Server, keys};

const DEADLINE: Duration = Duration::from_millis(25);

fn store(proxy: &Proxy) -> RedisStore {
    let config = RedisConfig::single(proxy.url()).rate_limit_timeout(DEADLINE);
    RedisStore::new(config, keys()).unwrap()
}

fn day(limit: u64) -> Quota {
    Quota::new(limit, Duration::from_secs(86_400))
}

/// Sends a request, and returns whether it was admitted, and whether the server decided.
async fn ask(layer: &RateLimitLayer) -> (bool, bool) {
    let mut request = Request::new(());
    let record = RecordHandle::default();
    request.extensions_mut().insert(record.clone());
    let inner = service_fn(async |_| Ok::<_, Infallible>(Response::new(())));
    let response = layer.layer(inner).oneshot(request).await.unwrap();
    let failed = record.read(|slots| slots.rate_limits()[0].decision.store_error().is_some());
    (response.status() == StatusCode::OK, !failed)
}

/// Sends requests until the server decides one, and returns how many were admitted.
async fn until_decided(layer: &RateLimitLayer) -> u64 {
    let (begun, mut admitted) = (Instant::now(), 0);
    loop {
        let (is_admitted, is_decided) = ask(layer).await;
        admitted += u64::from(is_admitted);
        if is_decided {
            return admitted;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "never decides");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn admitted(layer: &RateLimitLayer, requests: usize) -> u64 {
    let mut admitted = 0;
    for _ in 0..requests {
        admitted += u64::from(ask(layer).await.0);
    }
    admitted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn freezes_that_lose_charges_admit_no_more_than_the_limit_and_one_share() {
    for (share, part) in [(4, 25), (1, 100)] {
        let server = Server::start();
        let proxy = Proxy::new(server.addr());
        let by = Partition::header(HeaderName::from_static("x-nobody-sends-this"));
        let layer = RateLimitLayer::builder(store(&proxy), by)
            .policy(Policy::fixed_window("calls", day(100)).unwrap())
            .on_store_error(OnStoreError::local(MemoryStore::new(), share))
            .build()
            .unwrap();
        let mut total = until_decided(&layer).await;
        for _ in 0..6 {
            // The charge that follows the one decision freezes, and is thrown away.
            proxy.set(Fault::BlackHole);
            total += admitted(&layer, 120).await;
            proxy.set(Fault::Reset);
            proxy.set(Fault::None);
            total += until_decided(&layer).await;
        }
        total += admitted(&layer, 120).await;
        // Decisions whose reply came late are counted too.
        assert!((50..=100 + part).contains(&total), "{total} of {share}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_resets_never_exceed_the_deferred_bound() {
    const LIMIT: u64 = 6_000;
    let server = Server::start();
    let proxies = [0, 1, 2].map(|_| Proxy::new(server.addr()));
    let most = NonZeroU32::new(40).unwrap();
    let policies = [
        Policy::fixed_window("anchored", day(LIMIT)).unwrap(),
        Policy::aligned_window("aligned", day(LIMIT + 500)).unwrap(),
        Policy::sliding_window("sliding", day(LIMIT + 500)).unwrap(),
    ]
    .map(|policy| {
        policy.with_sync_mode(SyncMode::Deferred {
            max_unreported: most,
        })
    });
    let bound = policies[0].max_over_admission(3);
    let begun = Instant::now();
    let tasks = proxies.each_ref().map(|proxy| {
        let (store, policies) = (store(proxy), policies.clone());
        tokio::spawn(async move {
            let partition = keys().space("resets").short_key(b"one");
            let charges: Vec<_> = policies.iter().map(|it| Charge::new(it, 1)).collect();
            let (mut admitted, mut denied) = (0_u64, 0);
            while denied < 3 {
                match store.take(&partition, &charges).await {
                    Ok(taken) if taken.is_admitted() => admitted += 1,
                    Ok(_) => denied += 1,
                    Err(_) => assert!(begun.elapsed() < Duration::from_secs(60)),
                }
                let pause = match begun.elapsed() < Duration::from_secs(10) {
                    true => Duration::from_millis(5),
                    false => Duration::ZERO,
                };
                tokio::time::sleep(pause).await;
            }
            admitted
        })
    });
    for round in 0..24 {
        let proxy = &proxies[round % 3];
        // Calls in flight are discarded.
        proxy.set(Fault::BlackHole);
        tokio::time::sleep(Duration::from_millis(200)).await;
        proxy.set(Fault::Reset);
        proxy.set(Fault::None);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let mut admitted = 0;
    for task in tasks {
        admitted += task.await.unwrap();
    }
    assert!(
        (LIMIT * 9 / 10..=LIMIT + bound).contains(&admitted),
        "{admitted}"
    );
}
