//! Latency of requests while their Redis server fails, time until a revoked key is rejected, and
//! failed requests with a healthy server on a busy machine.
//!
//! ```text
//! cargo bench --bench faults --features redis,test-util
//! cargo bench --bench faults --features redis,test-util -- --check hang revocation crowd
//! ```
//!
//! Arguments select the parts whose names contain one of them. Each figure is followed by its
//! bound. Without `--check` the benchmark never fails, because a busy machine adds delays. The rows
//! `ruler`, which only sleeps, and `bare`, a service without a layer, measure those delays, and
//! `--check` adds them to the bounds.
#![allow(clippy::disallowed_methods, reason = "spawns tasks and measures time")]
#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

#[path = "../tests/it/support/app.rs"]
mod app;

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderName, Request, StatusCode};
use http_body_util::Full;
use portcullis::{
    TokioRuntime,
    access_log::{AccessLogLayer, sinks::LogQueue},
    api_key::{ApiKeyLayer, KeyManager, KeyRing, NewKey, Pepper},
    cache::CacheLayer,
    rate_limit::{OnStoreError, Partition, Policy, Quota, RateLimitLayer, SyncMode},
    store::{RedisConfig, RedisStore, StoreKeys},
    test_util::{Fault, FaultProxy, RedisServer},
};
use tower::{ServiceExt, layer::util::Identity};

use self::app::{App, app};

/// The number of repetitions of each fault.
const REPEATS: usize = 5;

/// The duration of a fault.
const FAULT: Duration = Duration::from_millis(1_500);

/// The number of tasks that send requests to each layer.
const TASKS: usize = 3;

/// The maximum time by which a request may exceed its timeout, until the outage is detected.
const LATE_MAX: Duration = Duration::from_millis(20);

/// The maximum latency of a request after the outage is detected.
const AFTER_MAX: Duration = Duration::from_millis(1);

/// The maximum time from the end of the fault to full recovery.
const RECOVERY_MAX: Duration = Duration::from_secs(2);

/// The number of revoked keys, and of instances.
const REVOCATIONS: usize = 250;
const INSTANCES: usize = 4;

/// The maximum time until 99 of 100 revoked keys are refused everywhere.
const REVOKED_MAX: Duration = Duration::from_millis(100);

/// The number of processes on a server, the clients of each, and the duration of their load.
const PROCESSES: usize = 4;
const CLIENTS: usize = 64;
const CROWD: Duration = Duration::from_secs(4);

/// Environment variables of a crowd process: its sync mode, and the URL of its server.
const CROWD_MODE: &str = "PORTCULLIS_FAULTS_MODE";
const CROWD_URL: &str = "PORTCULLIS_FAULTS_URL";

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

fn main() -> ExitCode {
    if let (Ok(mode), Ok(url)) = (std::env::var(CROWD_MODE), std::env::var(CROWD_URL)) {
        runtime().block_on(crowd_process(&mode, &url));
        return ExitCode::SUCCESS;
    }
    let mut report = Report::default();
    runtime().block_on(async {
        for fault in [Failure::Hang, Failure::Crash, Failure::BlackHole] {
            if !is_wanted(fault.name()) {
                continue;
            }
            let mut seen = Seen::default();
            for _ in 0..REPEATS {
                Scene::new().await.endure(fault, &mut seen).await;
            }
            seen.report(fault.name(), &mut report);
        }
        if is_wanted("revocation") {
            revocations(&mut report).await;
        }
    });
    if is_wanted("crowd") {
        crowds(&mut report);
    }
    let is_checked = std::env::args().any(|argument| argument == "--check");
    match report.exceeded {
        0 => ExitCode::SUCCESS,
        count => {
            eprintln!("{count} figures EXCEEDED their bound");
            ExitCode::from(u8::from(is_checked))
        }
    }
}

/// Returns `true` if an argument selects this part, or if there are no arguments.
fn is_wanted(name: &str) -> bool {
    let mut words = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .peekable();
    words.peek().is_none() || words.any(|word| name.contains(&word))
}

/// Prints figures, and counts those that exceed their bound.
#[derive(Default)]
struct Report {
    exceeded: usize,
}

impl Report {
    fn note(&self, name: &str, value: Duration) {
        println!("MILLIS {name} {:.3}", millis(value));
    }

    /// Prints a count that must be zero.
    fn none(&mut self, name: &str, count: u64, of: u64) {
        self.exceeded += usize::from(count > 0);
        let exceeded = if count > 0 { " EXCEEDED" } else { "" };
        println!("COUNT {name} {count} of {of} (at most 0){exceeded}");
    }

    /// Prints a figure and its bound, with an allowance for delays of the machine.
    fn bound(&mut self, name: &str, value: Duration, at_most: Duration, late: Duration) {
        let is_exceeded = value > at_most + late;
        self.exceeded += usize::from(is_exceeded);
        println!(
            "MILLIS {name} {:.3} (at most {}){}",
            millis(value),
            millis(at_most),
            match (is_exceeded, value > at_most) {
                (true, _) => " EXCEEDED",
                (false, true) => ", within the delay of the machine",
                (false, false) => "",
            }
        );
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

#[derive(Clone, Copy)]
enum Failure {
    Hang,
    Crash,
    BlackHole,
}

impl Failure {
    fn name(self) -> &'static str {
        match self {
            Self::Hang => "hang",
            Self::Crash => "crash",
            Self::BlackHole => "black_hole",
        }
    }
}

/// The layers, and the timeout of each for a reply of its store.
const LAYERS: [(&str, Duration); 5] = [
    ("auth", Duration::from_millis(50)),
    ("limit", Duration::from_millis(25)),
    ("cache", Duration::from_millis(25)),
    // No request waits for it.
    ("log", Duration::ZERO),
    ("bare", Duration::ZERO),
];
const AUTH: usize = 0;
const LIMIT: usize = 1;
const CACHE: usize = 2;
const LOG: usize = 3;
const BARE: usize = 4;

/// Latencies of requests.
#[derive(Default)]
struct Seen {
    /// Of requests that started before and after the outage was detected, by layer.
    once: BTreeMap<usize, Vec<Duration>>,
    after: BTreeMap<usize, Vec<Duration>>,
    /// Recovery times of each layer after the fault.
    recovered: BTreeMap<usize, Vec<Duration>>,
    /// Delays of a task that sleeps for a millisecond at a time.
    ruler: Vec<Duration>,
}

impl Seen {
    fn report(mut self, fault: &str, report: &mut Report) {
        let ruler = sorted(&mut self.ruler);
        report.note(&format!("{fault}/ruler/p99"), percentile(ruler, 99));
        report.note(&format!("{fault}/ruler/p100"), percentile(ruler, 100));
        let slept_late = percentile(ruler, 100);
        let bare = sorted(self.after.entry(BARE).or_default()).to_vec();
        for (which, (layer, deadline)) in LAYERS.into_iter().enumerate() {
            let once = sorted(self.once.entry(which).or_default());
            let most = percentile(once, 100);
            let name = format!("{fault}/{layer}/once");
            report.bound(&name, most, deadline + LATE_MAX, slept_late);
            let after = sorted(self.after.entry(which).or_default());
            println!("COUNT {fault}/{layer}/after {}", after.len());
            for percent in [50, 99, 100] {
                let name = format!("{fault}/{layer}/after/p{percent}");
                // The maximum is allowed the delay of the ruler, other percentiles that of `bare`.
                let late = match percent {
                    100 => slept_late,
                    _ => percentile(&bare, percent),
                };
                report.bound(&name, percentile(after, percent), AFTER_MAX, late);
            }
        }
        for (which, times) in &mut self.recovered {
            let name = format!("{fault}/{}/recovery", LAYERS[*which].0);
            let most = percentile(sorted(times), 100);
            report.bound(&name, most, RECOVERY_MAX, slept_late);
        }
    }
}

/// Returns the secret that all stores share.
fn keys() -> StoreKeys {
    StoreKeys::from_secret(b"the secret that all instances share").unwrap()
}

fn sorted(times: &mut [Duration]) -> &[Duration] {
    times.sort_unstable();
    times
}

/// Returns a percentile of sorted times.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// A server behind a proxy, and a service with each layer.
struct Scene {
    server: RedisServer,
    proxy: FaultProxy,
    store: RedisStore,
    queue: LogQueue,
    apps: [App; 5],
    /// The number of calls of the handler inside the cache.
    calls: Arc<AtomicUsize>,
    key: String,
}

impl Scene {
    async fn new() -> Self {
        let server = RedisServer::start();
        let proxy = FaultProxy::new(server.addr());
        let store = RedisStore::new(RedisConfig::single(proxy.url()), keys()).unwrap();
        // Without a key cache, each request calls the store.
        let ring = KeyRing::builder("acmepay", store.clone())
            .pepper(Pepper::random(1))
            .key_cache_ttl(Duration::ZERO)
            .build()
            .unwrap();
        let key = KeyManager::new(&ring)
            .create(NewKey::new("a"))
            .await
            .unwrap();
        let by = Partition::header(HeaderName::from_static("x-absent"));
        let limit = RateLimitLayer::builder(store.clone(), by)
            .policy(Policy::fixed_window("all", Quota::per_hour(1_000_000)).unwrap())
            .on_store_error(OnStoreError::Deny)
            .build()
            .unwrap();
        let queue = LogQueue::builder(store.clone(), TokioRuntime)
            .flush_interval(Duration::from_millis(20))
            .build()
            .unwrap();
        let (calls, others) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let apps = [
            app(ApiKeyLayer::builder(&ring).build().unwrap(), &others),
            app(limit, &others),
            app(CacheLayer::new(store.clone()), &calls),
            app(AccessLogLayer::new(queue.clone()), &others),
            app(Identity::new(), &others),
        ];
        let key = key.expose_secret().to_owned();
        let scene = Self {
            server,
            proxy,
            store,
            queue,
            apps,
            calls,
            key,
        };
        for which in [AUTH, LIMIT, CACHE, LOG] {
            scene.until_up(which).await;
        }
        // Until the store can connect again immediately.
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        scene
    }

    fn request(&self, which: usize, path: usize) -> Request<Full<Bytes>> {
        let request = Request::get(format!("http://acme.test/{}", path % 7));
        let request = if which == AUTH {
            request.header("x-api-key", &self.key)
        } else {
            request
        };
        request.body(Full::default()).unwrap()
    }

    async fn send(&self, which: usize) -> StatusCode {
        let app = self.apps[which].clone();
        app.oneshot(self.request(which, 0)).await.unwrap().status()
    }

    /// Sends requests until a layer works with the server again, and returns the elapsed time.
    async fn until_up(&self, which: usize) -> Duration {
        let started = Instant::now();
        loop {
            let before = self.calls.load(Ordering::Relaxed);
            let status = self.send(which).await;
            let is_up = match which {
                // A server that lost its data knows no key.
                AUTH => [StatusCode::OK, StatusCode::UNAUTHORIZED].contains(&status),
                CACHE => self.calls.load(Ordering::Relaxed) == before,
                LOG => self.queue.flush().await,
                _ => status == StatusCode::OK,
            };
            if is_up {
                return started.elapsed();
            }
            assert!(
                started.elapsed() < Duration::from_secs(20),
                "{:?}",
                self.store
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Sends requests to all layers during a fault, and measures the recovery.
    async fn endure(self, fault: Failure, seen: &mut Seen) {
        let over = Arc::new(AtomicBool::new(false));
        let tasks: Vec<_> = (0..LAYERS.len() * TASKS)
            .map(|task| tokio::spawn(self.load(task % LAYERS.len(), &over)))
            .collect();
        let ruler = tokio::spawn(ruler(Arc::clone(&over)));
        tokio::time::sleep(Duration::from_millis(100)).await;
        match fault {
            Failure::Hang => self.server.freeze(),
            Failure::Crash => self.server.kill(),
            Failure::BlackHole => self.proxy.set(Fault::BlackHole),
        }
        tokio::time::sleep(FAULT).await;
        over.store(true, Ordering::Relaxed);
        for (task, times) in tasks.into_iter().enumerate() {
            let (once, after) = times.await.unwrap();
            let which = task % LAYERS.len();
            seen.once.entry(which).or_default().extend(once);
            seen.after.entry(which).or_default().extend(after);
        }
        seen.ruler.extend(ruler.await.unwrap());
        match fault {
            Failure::Hang => self.server.thaw(),
            Failure::Crash => self.server.restart(),
            Failure::BlackHole => self.proxy.set(Fault::None),
        }
        let (auth, limit, cache, log) = tokio::join!(
            self.until_up(AUTH),
            self.until_up(LIMIT),
            self.until_up(CACHE),
            self.until_up(LOG),
        );
        for (which, time) in [(AUTH, auth), (LIMIT, limit), (CACHE, cache), (LOG, log)] {
            seen.recovered.entry(which).or_default().push(time);
        }
    }

    /// Sends requests to a layer during a fault. Returns the latencies of those that started before
    /// and after the outage was detected.
    fn load(
        &self,
        which: usize,
        over: &Arc<AtomicBool>,
    ) -> impl Future<Output = (Vec<Duration>, Vec<Duration>)> + Send + 'static {
        let (app, store, over) = (self.apps[which].clone(), self.store.clone(), over.clone());
        let requests: Vec<_> = (0..7).map(|path| self.request(which, path)).collect();
        async move {
            let (mut once, mut after) = (Vec::new(), Vec::new());
            while !over.load(Ordering::Relaxed) {
                let times = if store.stats().down == 0 {
                    &mut once
                } else {
                    &mut after
                };
                let request = requests[times.len() % requests.len()].clone();
                let app = app.clone();
                let started = Instant::now();
                app.oneshot(request).await.unwrap();
                times.push(started.elapsed());
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            (once, after)
        }
    }
}

/// Sleeps for a millisecond at a time, and returns the delay of each sleep.
async fn ruler(over: Arc<AtomicBool>) -> Vec<Duration> {
    let slept = Duration::from_millis(1);
    let mut late = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let started = Instant::now();
        tokio::time::sleep(slept).await;
        late.push(started.elapsed().saturating_sub(slept));
    }
    late
}

/// Revokes keys that all instances have cached, and measures the time from each call until all
/// instances refuse the key.
async fn revocations(report: &mut Report) {
    let server = RedisServer::start();
    let instances: Vec<_> = (0..=INSTANCES)
        .map(|_| {
            // Timeouts of lookups are not part of the measurement.
            let config = RedisConfig::single(server.url()).api_key_timeout(Duration::from_secs(1));
            let store = RedisStore::new(config, keys()).unwrap();
            let ring = KeyRing::builder("acmepay", store)
                .pepper(Pepper::new(1, b"the pepper that all instances share").unwrap())
                .build();
            let ring = ring.unwrap();
            let calls = Arc::new(AtomicUsize::new(0));
            let app: App = app(ApiKeyLayer::builder(&ring).build().unwrap(), &calls);
            (KeyManager::new(&ring), app)
        })
        .collect();
    let ((manager, _), readers) = instances.split_first().unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let ruler = tokio::spawn(ruler(Arc::clone(&over)));
    let mut times = Vec::new();
    for number in 0..REVOCATIONS {
        let key = manager.create(NewKey::new("a")).await.unwrap();
        let request = || {
            let request = Request::get("/").header("x-api-key", key.expose_secret());
            request.body(Full::<Bytes>::default()).unwrap()
        };
        // An instance with a subscription caches the key by the second request.
        for _ in 0..if number == 0 { 50 } else { 2 } {
            for (_, app) in readers {
                let status = app.clone().oneshot(request()).await.unwrap().status();
                assert_eq!(status, StatusCode::OK);
            }
            if number == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        let started = Instant::now();
        let refusals: Vec<_> = readers
            .iter()
            .map(|(_, app)| {
                let (app, request) = (app.clone(), request());
                tokio::spawn(async move {
                    loop {
                        let status = app.clone().oneshot(request.clone()).await.unwrap().status();
                        if status == StatusCode::UNAUTHORIZED {
                            return started.elapsed();
                        }
                        tokio::time::sleep(Duration::from_micros(200)).await;
                    }
                })
            })
            .collect();
        manager.revoke(key.id(), "a benchmark").await.unwrap();
        let mut everywhere = Duration::ZERO;
        for refusal in refusals {
            everywhere = everywhere.max(refusal.await.unwrap());
        }
        times.push(everywhere);
    }
    over.store(true, Ordering::Relaxed);
    let mut late = ruler.await.unwrap();
    let late = sorted(&mut late);
    report.note("revocation/ruler/p99", percentile(late, 99));
    report.note("revocation/ruler/p100", percentile(late, 100));
    let late = percentile(late, 99);
    let times = sorted(&mut times);
    println!("COUNT revocation {}", times.len());
    report.note("revocation/p50", percentile(times, 50));
    report.bound("revocation/p99", percentile(times, 99), REVOKED_MAX, late);
    report.note("revocation/p100", percentile(times, 100));
}

/// Runs more processes than cores on one healthy server. No request may fail, and no process may
/// consider the server unavailable.
fn crowds(report: &mut Report) {
    let fsync = ["--appendonly", "yes", "--appendfsync", "always"];
    for (name, options) in [("memory", &[][..]), ("fsync", &fsync)] {
        for mode in ["exact", "leased"] {
            let server = RedisServer::with(options);
            let children: Vec<_> = (0..PROCESSES)
                .map(|_| {
                    std::process::Command::new(std::env::current_exe().unwrap())
                        .env(CROWD_MODE, mode)
                        .env(CROWD_URL, server.url())
                        .stdout(std::process::Stdio::piped())
                        .spawn()
                        .unwrap()
                })
                .collect();
            let mut total = [0; 3];
            for child in children {
                let output = child.wait_with_output().unwrap().stdout;
                let output = String::from_utf8(output).unwrap();
                let numbers = output
                    .split_whitespace()
                    .map(|it| it.parse::<u64>().unwrap());
                total.iter_mut().zip(numbers).for_each(|(a, b)| *a += b);
            }
            let [sent, failed, downs] = total;
            report.none(&format!("crowd/{name}/{mode}/failed"), failed, sent);
            report.none(&format!("crowd/{name}/{mode}/outages"), downs, sent);
        }
    }
}

/// Sends requests, and prints the numbers of requests, failures and detected outages.
async fn crowd_process(mode: &str, url: &str) {
    let store = RedisStore::new(RedisConfig::single(url), keys()).unwrap();
    let instances = NonZeroU32::new(PROCESSES as u32).unwrap();
    let policy = Policy::fixed_window("all", Quota::per_hour(100_000_000)).unwrap();
    let policy = match mode {
        "leased" => policy.with_sync_mode(SyncMode::Leased { instances }),
        _ => policy,
    };
    let by = Partition::header(HeaderName::from_static("x-client"));
    let limit = RateLimitLayer::builder(store.clone(), by)
        .policy(policy)
        .on_store_error(OnStoreError::Deny)
        .build()
        .unwrap();
    let app = app(limit, &Arc::default());
    while store.ping().await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let until = Instant::now() + CROWD;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let app = app.clone();
            tokio::spawn(async move {
                let (mut sent, mut failed) = (0_u64, 0_u64);
                while Instant::now() < until {
                    let request = Request::get("/").header("x-client", client + sent as usize % 7);
                    let request = request.body(Full::<Bytes>::default()).unwrap();
                    let status = app.clone().oneshot(request).await.unwrap().status();
                    sent += 1;
                    failed += u64::from(status != StatusCode::OK);
                    tokio::task::yield_now().await;
                }
                (sent, failed)
            })
        })
        .collect();
    let (mut sent, mut failed) = (0, 0);
    for client in clients {
        let (own, lost) = client.await.unwrap();
        (sent, failed) = (sent + own, failed + lost);
    }
    println!("{sent} {failed} {}", store.stats().downs);
}
