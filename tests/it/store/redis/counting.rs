//! Limits that instances share count within their bounds whatever befalls the Redis server, the
//! connections or the process: 20 seeds of each mode and fault.

use std::{
    convert::Infallible,
    num::NonZeroU32,
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use http::{HeaderName, Request, Response, StatusCode};
use portcullis::{
    outcome::{RateLimitDecision, RateLimitOutcome, RecordHandle},
    rate_limit::{OnStoreError, Partition, Policy, Quota, RateLimitLayer, SyncMode},
    store::{MemoryStore, RedisConfig, RedisStore},
};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::redis::{Fault, Proxy, Server, keys};

const SEEDS: u64 = 20;
const INSTANCES: u32 = 3;
const LIMIT: u64 = 160;

/// The threads of the runtime of each test.
const WORKERS: usize = 2;

/// The most requests that each deferred instance admits unreported.
const DEFERRED: u32 = 5;

/// The divisor of the limit that gives the share of a local store.
const SHARES: u32 = 10;

/// The sync mode of the instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counting {
    Exact,
    Leased,
    Deferred,
    /// Exact, and by a local store while the server fails.
    Local,
}

impl Counting {
    fn sync_mode(self) -> SyncMode {
        let some = |number| NonZeroU32::new(number).unwrap();
        match self {
            Self::Exact | Self::Local => SyncMode::Exact,
            Self::Leased => SyncMode::Leased {
                instances: some(INSTANCES),
            },
            Self::Deferred => SyncMode::Deferred {
                max_unreported: some(DEFERRED),
            },
        }
    }

    /// Returns the most requests that are admitted beyond the limit.
    fn bound(self) -> u64 {
        let each = match self {
            Self::Exact | Self::Leased => 0,
            Self::Deferred => u64::from(DEFERRED),
            Self::Local => LIMIT.div_ceil(SHARES.into()),
        };
        each * u64::from(INSTANCES)
    }

    fn on_error(self) -> OnStoreError {
        match self {
            Self::Exact | Self::Leased | Self::Deferred => OnStoreError::Deny,
            Self::Local => OnStoreError::local(MemoryStore::new(), SHARES),
        }
    }
}

/// A fault of the server, the connections, or the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// The server hangs for a second.
    Freeze,
    /// The server hangs six times, for up to 200 ms.
    Flapping,
    /// Each connection brings one reply to a call, and then none.
    Brownout,
    /// Connections end after a command was sent and before its reply.
    Cuts,
    /// The server is full for half a second, and loses its scripts.
    Full,
    /// No thread of the process runs for up to 120 ms, ten times.
    Starved,
}

/// Numbers that only look random.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn of(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn between(&mut self, least: u64, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        least + self.0 % (most - least + 1)
    }

    fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.between(least, most))
    }
}

/// Instances that count in one way, each with a connection of its own.
struct Fleet {
    counting: Counting,
    proxies: Vec<Proxy>,
    stores: Vec<RedisStore>,
}

impl Fleet {
    fn before(server: &Server, counting: Counting) -> Self {
        let proxies: Vec<_> = (0..INSTANCES).map(|_| Proxy::new(server.addr())).collect();
        let store = |proxy: &Proxy| {
            let config = RedisConfig::single(proxy.url()).prefix(format!("{counting:?}"));
            RedisStore::new(config, keys()).unwrap()
        };
        Self {
            counting,
            stores: proxies.iter().map(store).collect(),
            proxies,
        }
    }

    /// Returns the instances of one seed, which share a limit of their own.
    fn instances(&self, seed: u64) -> Vec<Instance> {
        let day = Quota::new(LIMIT, Duration::from_secs(86_400));
        let name = format!("p{seed}");
        let policy = match seed % 4 {
            0 => Policy::fixed_window(&name, day),
            1 => Policy::aligned_window(&name, day),
            2 => Policy::calendar_month(&name, LIMIT),
            _ => Policy::sliding_window(&name, day),
        };
        let policy = policy.unwrap().with_sync_mode(self.counting.sync_mode());
        let instance = |store: &RedisStore| {
            let by = Partition::header(HeaderName::from_static("x-seed"));
            let layer = RateLimitLayer::builder(store.clone(), by)
                .policy(policy.clone())
                .on_store_error(self.counting.on_error());
            Instance {
                layer: layer.build().unwrap(),
                seed,
            }
        };
        self.stores.iter().map(instance).collect()
    }

    async fn until_up(&self) {
        for store in &self.stores {
            let begun = Instant::now();
            while store.ping().await.is_err() {
                assert!(begun.elapsed() < Duration::from_secs(20), "{store:?}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

/// The outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Admitted,
    Denied,
    /// The store failed.
    Failed,
}

/// One instance, to the client of one seed.
#[derive(Clone)]
struct Instance {
    layer: RateLimitLayer,
    seed: u64,
}

impl Instance {
    async fn send(&self) -> Seen {
        let request = Request::builder().header("x-seed", self.seed.to_string());
        let mut request = request.body(()).unwrap();
        request.extensions_mut().insert(RecordHandle::default());
        let inner = service_fn(async |_| Ok::<_, Infallible>(Response::new(())));
        let response = self.layer.layer(inner).oneshot(request).await.unwrap();
        let outcome: &RateLimitOutcome = response.extensions().get().unwrap();
        match (response.status(), &outcome.decision) {
            (StatusCode::OK, _) => Seen::Admitted,
            (_, RateLimitDecision::Denied) => Seen::Denied,
            (_, _) => Seen::Failed,
        }
    }

    /// Sends requests at the pace of its seed until the time is over, and returns how many were
    /// admitted.
    async fn load(self, mut random: Random, until: Instant) -> u64 {
        let mut admitted = 0;
        tokio::time::sleep(random.millis(0, 60)).await;
        while Instant::now() < until {
            admitted += u64::from(self.send().await == Seen::Admitted);
            tokio::time::sleep(random.millis(20, 80)).await;
        }
        admitted
    }
}

/// Sends requests to the instances in turn until all deny, and returns the number admitted.
async fn drain(instances: &[Instance]) -> u64 {
    let (mut admitted, mut denied, begun) = (0, 0, Instant::now());
    for instance in instances.iter().cycle() {
        match instance.send().await {
            Seen::Admitted => (admitted, denied) = (admitted + 1, 0),
            Seen::Denied => denied += 1,
            Seen::Failed => {
                assert!(begun.elapsed() < Duration::from_secs(20));
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        if denied > 2 * instances.len() {
            return admitted;
        }
    }
    admitted
}

/// Holds all threads of the runtime for this long.
fn starve(time: Duration) {
    let all = Arc::new(Barrier::new(WORKERS));
    for _ in 0..WORKERS {
        let all = Arc::clone(&all);
        tokio::spawn(async move {
            all.wait();
            thread::sleep(time);
        });
    }
}

impl Trouble {
    async fn befall(self, server: &Server, proxies: &[&Proxy]) {
        let mut random = Random::of(self as u64 + 1);
        match self {
            Self::Freeze => hang(server, Duration::from_secs(1)).await,
            Self::Flapping => {
                for _ in 0..6 {
                    hang(server, random.millis(40, 200)).await;
                    tokio::time::sleep(random.millis(50, 400)).await;
                }
            }
            Self::Brownout => {
                proxies.iter().for_each(|it| it.set(Fault::Replies(3)));
                tokio::time::sleep(Duration::from_millis(2_500)).await;
                proxies.iter().for_each(|it| it.set(Fault::None));
            }
            Self::Cuts => {
                for number in 0..6 {
                    let proxy = proxies[number % proxies.len()];
                    proxy.set(Fault::HalfOpen);
                    tokio::time::sleep(random.millis(5, 20)).await;
                    proxy.set(Fault::Reset);
                    proxy.set(Fault::None);
                    tokio::time::sleep(random.millis(100, 300)).await;
                }
            }
            Self::Full => {
                server.ask(&["CONFIG", "SET", "maxmemory", "1"]);
                tokio::time::sleep(Duration::from_millis(500)).await;
                server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
                server.ask(&["SCRIPT", "FLUSH"]);
            }
            Self::Starved => {
                for _ in 0..10 {
                    starve(random.millis(30, 120));
                    tokio::time::sleep(random.millis(150, 250)).await;
                }
            }
        }
    }

    /// Returns the least part of the limit, in percent, that is admitted in the end.
    fn least_percent(self, counting: Counting) -> u64 {
        match (self, counting) {
            (Self::Starved, _) => 100,
            (Self::Freeze | Self::Cuts | Self::Full, Counting::Leased) => 95,
            (Self::Flapping | Self::Brownout, Counting::Leased) => 90,
            // A decision whose reply is lost stays charged.
            (_, Counting::Exact | Counting::Deferred | Counting::Local) => 80,
        }
    }
}

async fn hang(server: &Server, time: Duration) {
    server.freeze();
    tokio::time::sleep(time).await;
    server.thaw();
}

/// Lets instances serve 20 seeds during a fault, and checks the number admitted for each seed.
async fn count(trouble: Trouble, ways: [Counting; 2]) {
    let server = Server::start();
    let fleets = ways.map(|counting| Fleet::before(&server, counting));
    for fleet in &fleets {
        fleet.until_up().await;
    }
    // Another attempt to connect may follow at once.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let until = Instant::now() + Duration::from_secs(3);
    let mut runs = Vec::new();
    for fleet in &fleets {
        for seed in 1..=SEEDS {
            let instances = fleet.instances(seed);
            let loads = instances.iter().cloned().enumerate().map(|(number, it)| {
                let random = Random::of(seed * 100 + number as u64);
                tokio::spawn(it.load(random, until))
            });
            runs.push((fleet.counting, loads.collect::<Vec<_>>(), instances));
        }
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let proxies: Vec<_> = fleets.iter().flat_map(|fleet| &fleet.proxies).collect();
    trouble.befall(&server, &proxies).await;
    tokio::time::sleep_until((until + Duration::from_secs(3)).into()).await;
    for fleet in &fleets {
        fleet.until_up().await;
    }
    for (counting, loads, instances) in runs {
        let mut admitted = 0;
        for load in loads {
            admitted += load.await.unwrap();
        }
        let during = admitted;
        admitted += drain(&instances).await;
        let seed = instances[0].seed;
        println!("{trouble:?} {counting:?} {seed}: {during} {admitted}");
        let least = LIMIT * trouble.least_percent(counting) / 100;
        let most = LIMIT + counting.bound();
        assert!(
            (least..=most).contains(&admitted),
            "{admitted} of {least} to {most}: {trouble:?} {counting:?} {seed}"
        );
    }
    assert_eq!(server.keys_without_expiry(), [""; 0]);
}

const BY_THE_SERVER: [Counting; 2] = [Counting::Exact, Counting::Local];
const BY_INSTANCES: [Counting; 2] = [Counting::Leased, Counting::Deferred];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn freeze_of_a_second_stays_within_the_bounds_of_exact_and_local_counting() {
    count(Trouble::Freeze, BY_THE_SERVER).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn freeze_of_a_second_stays_within_the_bounds_of_leased_and_deferred_counting() {
    count(Trouble::Freeze, BY_INSTANCES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_freezes_stay_within_the_bounds_of_exact_and_local_counting() {
    count(Trouble::Flapping, BY_THE_SERVER).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_freezes_stay_within_the_bounds_of_leased_and_deferred_counting() {
    count(Trouble::Flapping, BY_INSTANCES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_reply_per_connection_stays_within_the_bounds_of_exact_and_local_counting() {
    count(Trouble::Brownout, BY_THE_SERVER).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_reply_per_connection_stays_within_the_bounds_of_leased_and_deferred_counting() {
    count(Trouble::Brownout, BY_INSTANCES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_connections_stay_within_the_bounds_of_exact_and_local_counting() {
    count(Trouble::Cuts, BY_THE_SERVER).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_connections_stay_within_the_bounds_of_leased_and_deferred_counting() {
    count(Trouble::Cuts, BY_INSTANCES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_server_stays_within_the_bounds_of_exact_and_local_counting() {
    count(Trouble::Full, BY_THE_SERVER).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_server_stays_within_the_bounds_of_leased_and_deferred_counting() {
    count(Trouble::Full, BY_INSTANCES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starved_process_stays_within_the_bounds_of_exact_and_local_counting() {
    count(Trouble::Starved, BY_THE_SERVER).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starved_process_stays_within_the_bounds_of_leased_and_deferred_counting() {
    count(Trouble::Starved, BY_INSTANCES).await;
}
