//! Behavior of a limiter while its Redis server fails, for each kind of failure.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderName, Response, StatusCode};
use http_body_util::Full;
use portcullis::{
    outcome::RateLimitOutcome,
    rate_limit::{OnStoreError, Partition, Policy, Quota, RateLimitLayer, RateLimitStore},
    store::{MemoryStore, RedisConfig, RedisStore, backend::Charge},
};
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneService};

use crate::support::{
    calm::on_a_calm_machine,
    get,
    redis::{Fault, Proxy, Server, keys, patient},
};

type App = BoxCloneService<http::Request<Full<Bytes>>, Response<()>, Infallible>;

/// The timeout of a limiter's calls to its server.
const DEADLINE: Duration = Duration::from_millis(25);

/// By how much a request may be late on a machine that does other things too.
const LATE: Duration = Duration::from_secs(1);

/// More than is ever asked for: each admission by the server is counted there.
const LIMIT: u64 = 1_000_000;

/// A server behind a proxy, and a limiter of each kind before it.
struct Scene {
    server: Server,
    proxy: Proxy,
    store: RedisStore,
    policy: Policy,
    apps: Vec<(&'static str, StatusCode, App)>,
}

/// The outcomes of the requests of one limiter.
#[derive(Debug, Default)]
struct Seen {
    responses: Vec<(StatusCode, Duration)>,
}

impl Scene {
    async fn new() -> Self {
        Self::by(|config| config.rate_limit_timeout(DEADLINE)).await
    }

    async fn by(waiting: fn(RedisConfig) -> RedisConfig) -> Self {
        let server = Server::start();
        let proxy = Proxy::new(server.addr());
        let config = waiting(RedisConfig::single(proxy.url()));
        let store = RedisStore::new(config, keys()).unwrap();
        let policy = Policy::fixed_window("all", Quota::per_hour(LIMIT)).unwrap();
        let app = |on_error| {
            let by = Partition::header(HeaderName::from_static("x-nobody-sends-this"));
            let layer = RateLimitLayer::builder(store.clone(), by)
                .policy(policy.clone())
                .on_store_error(on_error)
                .build()
                .unwrap();
            let inner = service_fn(async |_| Ok::<_, Infallible>(Response::new(())));
            let limited = layer
                .layer(inner)
                .map_response(|response: Response<_>| response.map(drop));
            BoxCloneService::new(limited)
        };
        let local = OnStoreError::local(MemoryStore::new(), 1);
        let apps = vec![
            (
                "deny",
                StatusCode::SERVICE_UNAVAILABLE,
                app(OnStoreError::Deny),
            ),
            ("allow", StatusCode::OK, app(OnStoreError::Allow)),
            ("local", StatusCode::OK, app(local)),
        ];
        let scene = Self {
            server,
            proxy,
            store,
            policy,
            apps,
        };
        scene.until_up(Duration::from_secs(10)).await;
        // Another attempt to connect may follow at once.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        scene
    }

    async fn ask(&self, which: usize) -> (StatusCode, Duration) {
        let begun = Instant::now();
        let response = self.apps[which].2.clone().oneshot(get("/")).await.unwrap();
        (response.status(), begun.elapsed())
    }

    /// Asks until the server decides again.
    async fn until_up(&self, patience: Duration) {
        let begun = Instant::now();
        while self.ask(0).await.0 != StatusCode::OK {
            assert!(begun.elapsed() < patience, "{:?}", self.store);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Sends requests, eight at a time, until the time is over.
    async fn load(&self, time: Duration) -> Vec<Seen> {
        let over = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for (which, (_, _, app)) in self.apps.iter().enumerate() {
            for _ in 0..3 {
                let (app, over) = (app.clone(), Arc::clone(&over));
                tasks.push((
                    which,
                    tokio::spawn(async move {
                        let mut responses = Vec::new();
                        while !over.load(Ordering::Relaxed) {
                            let begun = Instant::now();
                            let response = app.clone().oneshot(get("/")).await.unwrap();
                            responses.push((response.status(), begun.elapsed()));
                            tokio::time::sleep(Duration::from_millis(3)).await;
                        }
                        responses
                    }),
                ));
            }
        }
        tokio::time::sleep(time).await;
        over.store(true, Ordering::Relaxed);
        let mut seen: Vec<Seen> = self.apps.iter().map(|_| Seen::default()).collect();
        for (which, task) in tasks {
            seen[which].responses.extend(task.await.unwrap());
        }
        seen
    }

    /// Returns the usage that the server has counted.
    async fn counted(&self) -> u64 {
        let partition = {
            // The partition of requests without the header, as the layer makes it, is the one key.
            let keys = self.server.keys();
            keys.into_iter().find(|key| key.contains(":l:"))
        };
        let Some(key) = partition else {
            return 0;
        };
        let id = self.policy.id().to_le_bytes();
        let command: [&[u8]; 3] = [b"HGET", key.as_bytes(), &id];
        match self.server.client().ask(&command).unwrap() {
            crate::support::redis::Reply::Bulk(state) => {
                f64::from_le_bytes(state[8..16].try_into().unwrap()) as u64
            }
            _ => 0,
        }
    }

    /// Checks what holds whatever happened: no key for ever, and the store still decides.
    async fn is_sound(&self) {
        assert_eq!(self.server.keys_without_expiry(), [""; 0]);
        let policy = Policy::fixed_window("after", Quota::per_hour(1)).unwrap();
        let partition = keys().space("after").short_key(b"after");
        let charge = [Charge::new(&policy, 1)];
        assert!(
            self.store
                .take(&partition, &charge)
                .await
                .unwrap()
                .is_admitted()
        );
        assert!(
            !self
                .store
                .take(&partition, &charge)
                .await
                .unwrap()
                .is_admitted()
        );
    }
}

/// Checks that each response is the documented one, and that few requests had to wait, none for
/// long.
fn check(scene: &Scene, seen: &[Seen]) {
    for ((name, while_failing, _), seen) in scene.apps.iter().zip(seen) {
        assert!(
            seen.responses.len() > 20,
            "{name}: only {}",
            seen.responses.len()
        );
        for (status, time) in &seen.responses {
            let documented = [StatusCode::OK, *while_failing];
            assert!(documented.contains(status), "{name}: {status}");
            assert!(*time < DEADLINE + LATE, "{name}: {time:?}");
        }
        let mut times: Vec<_> = seen.responses.iter().map(|(_, time)| *time).collect();
        times.sort_unstable();
        let median = times[times.len() / 2];
        assert!(median < Duration::from_millis(10), "{name}: {median:?}");
    }
}

fn failed(seen: &[Seen]) -> usize {
    let failed = |(status, _): &&(StatusCode, Duration)| *status != StatusCode::OK;
    seen[0].responses.iter().filter(failed).count()
}

/// Lets a fault last, end, and heal. All requests are answered as documented meanwhile.
async fn endure(
    scene: &mut Scene,
    begin: impl AsyncFnOnce(&mut Scene),
    end: impl AsyncFnOnce(&mut Scene),
) {
    begin(scene).await;
    let seen = scene.load(Duration::from_millis(900)).await;
    check(scene, &seen);
    assert!(failed(&seen) > 0, "nothing failed");
    end(scene).await;
    scene.until_up(Duration::from_secs(10)).await;
    scene.is_sound().await;
}

async fn behind_a_proxy(fault: Fault) {
    let mut scene = Scene::new().await;
    let set = async |scene: &mut Scene| scene.proxy.set(fault);
    endure(&mut scene, set, async |scene| scene.proxy.set(Fault::None)).await;
    // Each call was sent to the server at most once.
    let calls = scene.store.stats().calls;
    assert!(scene.counted().await <= calls);
    assert!(scene.server.calls_of("evalsha") + scene.server.calls_of("eval") <= calls + 1);
}

#[test]
fn server_hang_times_out_few_requests_and_charges_at_most_once() {
    on_a_calm_machine(async || {
        let mut scene = Scene::new().await;
        let freeze = async |scene: &mut Scene| scene.server.freeze();
        endure(&mut scene, freeze, async |scene| scene.server.thaw()).await;
        let stats = scene.store.stats();
        // The nine requests in flight at the freeze, and two at a time until the breaker opens.
        assert!(stats.timeouts + stats.broken <= 9 + 5, "{stats:?}");
        assert!(scene.counted().await <= stats.calls);
    });
}

#[test]
fn a_crash_is_a_policys_answer_until_the_server_is_back() {
    on_a_calm_machine(async || {
        let mut scene = Scene::new().await;
        let kill = async |scene: &mut Scene| scene.server.kill();
        endure(&mut scene, kill, async |scene| scene.server.restart()).await;
    });
}

#[test]
fn a_black_hole_is_a_policys_answer() {
    on_a_calm_machine(async || {
        behind_a_proxy(Fault::BlackHole).await;
    });
}

#[test]
fn a_half_open_connection_is_a_policys_answer() {
    on_a_calm_machine(async || {
        behind_a_proxy(Fault::HalfOpen).await;
    });
}

#[test]
fn a_reset_is_a_policys_answer() {
    on_a_calm_machine(async || {
        behind_a_proxy(Fault::Reset).await;
    });
}

#[test]
fn answers_byte_by_byte_are_a_policys_answer() {
    on_a_calm_machine(async || {
        behind_a_proxy(Fault::Slow(Duration::from_millis(20))).await;
    });
}

#[test]
fn corrupt_answers_are_a_policys_answer() {
    on_a_calm_machine(async || {
        behind_a_proxy(Fault::Corrupt).await;
    });
}

#[test]
fn a_full_server_is_a_policys_answer() {
    on_a_calm_machine(async || {
        let mut scene = Scene::by(patient).await;
        let fill = async |scene: &mut Scene| {
            scene.server.ask(&["CONFIG", "SET", "maxmemory", "1"]);
        };
        let empty = async |scene: &mut Scene| {
            scene.server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
        };
        // Such a server replies at once: no request waits, and calls continue meanwhile.
        fill(&mut scene).await;
        let seen = scene.load(Duration::from_millis(300)).await;
        for ((name, while_failing, _), seen) in scene.apps.iter().zip(&seen) {
            let as_documented = |(status, time): &(StatusCode, Duration)| {
                status == while_failing && *time < DEADLINE + LATE
            };
            assert!(seen.responses.iter().all(as_documented), "{name}: {seen:?}");
        }
        assert_eq!(scene.store.stats().downs, 0);
        empty(&mut scene).await;
        scene.until_up(Duration::from_secs(10)).await;
        scene.is_sound().await;
    });
}

#[test]
fn a_server_that_becomes_a_replica_is_a_policys_answer() {
    on_a_calm_machine(async || {
        let mut scene = Scene::new().await;
        let demote = async |scene: &mut Scene| {
            scene.server.ask(&["REPLICAOF", "127.0.0.1", "1"]);
        };
        let promote = async |scene: &mut Scene| {
            scene.server.ask(&["REPLICAOF", "NO", "ONE"]);
        };
        endure(&mut scene, demote, promote).await;
    });
}

#[test]
fn flushed_scripts_and_data_fail_no_request() {
    on_a_calm_machine(async || {
        let scene = Scene::by(patient).await;
        let (seen, ()) = tokio::join!(scene.load(Duration::from_millis(400)), async {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_millis(30)).await;
                scene.server.ask(&["SCRIPT", "FLUSH"]);
                scene.server.ask(&["FLUSHALL"]);
            }
        });
        assert_eq!(failed(&seen), 0);
        scene.is_sound().await;
    });
}

#[test]
fn flush_admits_at_most_one_more_limit() {
    on_a_calm_machine(async || {
        let scene = Scene::new().await;
        let config = patient(RedisConfig::single(scene.server.url())).max_cached_denials(0);
        let store = RedisStore::new(config, keys()).unwrap();
        let policy = Policy::fixed_window("small", Quota::per_hour(5)).unwrap();
        let partition = keys().space("flush").short_key(b"flush");
        let charge = [Charge::new(&policy, 1)];
        let mut admitted = 0;
        for round in 0..20 {
            if round == 10 {
                scene.server.ask(&["FLUSHALL"]);
            }
            let taken = store.take(&partition, &charge).await.unwrap();
            admitted += u64::from(taken.is_admitted());
        }
        assert_eq!(admitted, 10);
    });
}

#[test]
fn a_swallowed_reply_charges_once_and_shifts_nobodys_answer() {
    on_a_calm_machine(async || {
        let scene = Scene::new().await;
        for round in 0..3 {
            scene.proxy.set(Fault::Swallow(1));
            let mut tasks = Vec::new();
            for number in 0..40_u64 {
                let store = scene.store.clone();
                tasks.push(tokio::spawn(async move {
                    // Each task uses its own limit, so a reply to another call would be noticed.
                    let name = format!("limit-{number}");
                    let policy =
                        Policy::fixed_window(&name, Quota::per_hour(1_000 + number)).unwrap();
                    let partition = keys().space("swallow").short_key(&number.to_le_bytes());
                    let taken = store.take(&partition, &[Charge::new(&policy, 1)]).await;
                    taken.map(|taken| (number, taken.each()[0].remaining()))
                }));
            }
            for task in tasks {
                if let Ok((number, remaining)) = task.await.unwrap() {
                    assert!(
                        (1_000 + number - remaining) <= round + 1,
                        "{number}: {remaining}"
                    );
                    assert!(remaining < 1_000 + number, "{number}: {remaining}");
                }
            }
            scene.proxy.set(Fault::None);
            scene.until_up(Duration::from_secs(10)).await;
        }
        scene.is_sound().await;
    });
}

#[test]
fn charge_with_a_lost_reply_is_counted_once_and_recorded() {
    on_a_calm_machine(async || {
        let scene = Scene::new().await;
        let before = scene.counted().await;
        scene.proxy.set(Fault::HalfOpen);
        let app = scene.apps[1].2.clone();
        let response = app.oneshot(get("/")).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        // Without a record there is no outcome on the admitted path; the count shows it.
        assert!(response.extensions().get::<RateLimitOutcome>().is_none());
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(scene.counted().await, before + 1);
        let denied = scene.apps[0].2.clone().oneshot(get("/")).await.unwrap();
        let outcome = denied.extensions().get::<RateLimitOutcome>().unwrap();
        assert!(outcome.decision.store_error().is_some(), "{outcome:?}");
    });
}
