//! Our store on Redis: decisions per second, commands per request, and bytes per item.

use std::convert::Infallible;
use std::io;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use http::{HeaderValue, Request, Response};
use portcullis::{
    Gate, TokioRuntime,
    access_log::{
        AccessLogLayer,
        sinks::{JsonLines, LogQueue},
    },
    api_key::{ApiKeyLayer, KeyManager, KeyRing, NewKey, Pepper},
    cache::CacheLayer,
    rate_limit::{Partition, Policy, Quota, RateLimitLayer, RateLimitStore, SyncMode},
    store::{
        TieredStore,
        backend::{Charge, StoreKey},
    },
};
use tower::{Layer, Service, ServiceExt, util::BoxCloneSyncService};

use crate::harness::{Case, Rate, Unit, Who};
use crate::peers::{limitador, redis_benchmark};
use crate::workload::redis::{Server, ask_at_once, command_of, keys, runtime, store};
use crate::workload::{CREDENTIAL, CachedOrigin, Requests};

/// A limit that denies nothing, leased in pieces of ten thousand and more.
const WIDE: u64 = 1_000_000_000;

/// The number of instances that share leases.
const INSTANCES: NonZeroU32 = NonZeroU32::new(4).unwrap();

pub fn cases() -> Vec<Case> {
    let server = Rc::new(Server::start());
    let (window, bucket) = (wide_window(), wide_bucket());
    let leased = wide_window().with_sync_mode(SyncMode::Leased {
        instances: INSTANCES,
    });
    let (exact, exact_bucket) = ("redis/exact/64", "redis/exact_bucket/64");
    let exact_callers = "redis/exact_callers/64";
    let benchmark = |name, algorithm, policy| {
        redis_benchmark::case(name, &server, algorithm, &take_of(&server, policy))
    };
    let mut cases = vec![
        Case::rate(exact, Who::Ours, decisions(&server, &window)),
        benchmark(exact, redis_benchmark::FIXED_WINDOW, &window),
        limitador::on_redis(exact, &server),
        Case::rate(exact_bucket, Who::Ours, decisions(&server, &bucket)),
        benchmark(exact_bucket, redis_benchmark::TOKEN_BUCKET, &bucket),
        Case::rate(
            exact_callers,
            Who::Ours,
            decisions_of_many(&server, &window),
        ),
        benchmark(exact_callers, redis_benchmark::FIXED_WINDOW, &window),
        Case::rate("redis/lease/64", Who::Ours, decisions(&server, &leased)),
        Case::rate(
            "redis/lease/64",
            Who::Peer("exact"),
            decisions(&server, &window),
        ),
    ];
    cases.extend(commands());
    cases.extend(bytes());
    cases
}

fn wide_window() -> Policy {
    let policy = Policy::fixed_window("wide", Quota::per_hour(WIDE));
    policy.expect("the quota is within bounds")
}

fn wide_bucket() -> Policy {
    let policy = Policy::token_bucket("wide-bucket", Quota::per_hour(WIDE));
    policy.expect("the quota is within bounds")
}

/// Returns the partition of all rows.
fn partition() -> StoreKey {
    keys().space("peers").short_key(b"client")
}

/// Decides with one policy for one caller, with [`TASKS`] tasks.
fn decisions(server: &Rc<Server>, policy: &Policy) -> Rate {
    decisions_of(server, policy, vec![partition()])
}

/// Decides for each client of the suites in turn.
fn decisions_of_many(server: &Rc<Server>, policy: &Policy) -> Rate {
    let space = keys().space("peers");
    let partitions = (0..1_024_u32).map(|number| space.short_key(&number.to_le_bytes()));
    decisions_of(server, policy, partitions.collect())
}

fn decisions_of(server: &Rc<Server>, policy: &Policy, partitions: Vec<StoreKey>) -> Rate {
    let (runtime, store, policy) = (runtime(), store(server), policy.clone());
    let partitions: Arc<[StoreKey]> = partitions.into();
    let next = Arc::new(AtomicUsize::new(0));
    ask_at_once(server, runtime, move || {
        let at = next.fetch_add(1, Ordering::Relaxed) % partitions.len();
        let taken = store.take(&partitions[at], &[Charge::new(&policy, 1)]);
        async move {
            let decisions = taken.await.expect("the server replies");
            assert!(decisions.is_admitted());
        }
    })
}

/// Returns the command of one decision.
fn take_of(server: &Server, policy: &Policy) -> Vec<Vec<u8>> {
    let (runtime, store) = (runtime(), store(server));
    // Loads the script first.
    let take = || {
        let taken = store.take(&partition(), &[Charge::new(policy, 1)]);
        runtime.block_on(taken).expect("the server replies");
    };
    take();
    command_of(server, take)
}

/// The number of callers in the rows that count commands.
const CALLERS: usize = 64;

/// The number of requests per caller, too few to exceed the TTL of local caches.
const CALLS: usize = 20;

/// The number of requests per caller with leased policies, and their limit: half of it is spent.
const LEASED_CALLS: usize = 500;
const LEASED_OF: u64 = 1_000;

fn commands() -> Vec<Case> {
    let case = |name, state| {
        let read = move || commands_for_each_request(state);
        Case::gauge(name, Who::Ours, Unit::Commands, read)
    };
    vec![
        case("redis/cold", State::Cold),
        case("redis/new_key", State::NewKey),
        case("redis/warm", State::Warm),
        case("redis/leased", State::Leased),
    ]
}

/// The state that an instance has cached for a request.
#[derive(Clone, Copy)]
enum State {
    /// Neither the key nor the response. Another instance has created both.
    Cold,
    /// The response, which is shared, but not the key.
    NewKey,
    /// The key and the response.
    Warm,
    /// The key and the response, with leased policies.
    Leased,
}

impl State {
    fn policies(self) -> [Policy; 3] {
        let (mode, limit) = match self {
            Self::Cold | Self::NewKey | Self::Warm => (SyncMode::Exact, WIDE),
            Self::Leased => {
                let mode = SyncMode::Leased {
                    instances: INSTANCES,
                };
                (mode, LEASED_OF)
            }
        };
        let policies = [
            Policy::token_bucket("burst", Quota::per_minute(limit)),
            Policy::fixed_window("hour", Quota::per_hour(limit)),
            Policy::sliding_window("day", Quota::per_day(limit)),
        ];
        policies.map(|policy| {
            policy
                .expect("the quotas are within bounds")
                .with_sync_mode(mode)
        })
    }
}

/// Returns the number of commands for one request with a key, three policies and a cache hit.
fn commands_for_each_request(state: State) -> f64 {
    let (server, runtime) = (Server::start(), runtime());
    let origin = CachedOrigin::default();
    runtime.block_on(async {
        let ring = ring(&server);
        let manager = KeyManager::new(&ring);
        let mut callers = Vec::new();
        for caller in 0..CALLERS {
            let key = manager
                .create(NewKey::new(format!("client-{caller}")))
                .await;
            let key = key.expect("the server has room");
            callers.push(HeaderValue::try_from(key.expose_secret()).expect("keys are ASCII"));
        }
        let other = instance(&server, state, &origin);
        for caller in &callers {
            until_hit(&other, Some(caller), &origin).await;
        }
        let one = instance(&server, state, &origin);
        // Connects, and subscribes to changes and purges.
        let first = callers.swap_remove(0);
        for _ in 0..10 {
            ask(&one, Some(&first)).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let made = origin.asked();
        let calls = match state {
            State::Cold | State::NewKey => 1,
            State::Warm | State::Leased => {
                for caller in &callers {
                    // Until the response is in local memory, and enough is leased.
                    for _ in 0..3 {
                        ask(&one, Some(caller)).await;
                    }
                }
                match state {
                    State::Leased => LEASED_CALLS,
                    _ => CALLS,
                }
            }
        };
        let before = commands_at(&server);
        for _ in 0..calls {
            for caller in &callers {
                ask(&one, Some(caller)).await;
            }
        }
        assert_eq!(origin.asked(), made, "a request reached the origin");
        let asked = commands_at(&server) - before;
        asked as f64 / (calls * callers.len()) as f64
    })
}

type App = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

fn ring(server: &Server) -> KeyRing {
    let pepper = Pepper::new(1, b"the pepper that all instances share").expect("it is long enough");
    let ring = KeyRing::builder("peers", store(server)).pepper(pepper);
    ring.build().expect("the prefix is valid")
}

/// Returns the service of one process.
fn instance(server: &Server, state: State, origin: &CachedOrigin) -> App {
    let store = store(server);
    let limits = RateLimitLayer::builder(store.clone(), Partition::identity());
    let limits = state
        .policies()
        .into_iter()
        .fold(limits, |limits, policy| limits.policy(policy));
    let cache = CacheLayer::secure(TieredStore::new(store, 16 << 20))
        .share_public_responses(matches!(state, State::NewKey));
    let gate = Gate::new()
        .access_log(AccessLogLayer::new(JsonLines::direct(io::sink())))
        .api_keys(
            ApiKeyLayer::builder(&ring(server))
                .build()
                .expect("the defaults are valid"),
        )
        .rate_limit_by_identity(limits.build().expect("the policies are valid"))
        .cache(cache.build().expect("the defaults are valid"))
        .build()
        .expect("the stack is valid");
    let service = gate.layer(origin.service());
    BoxCloneSyncService::new(ServiceExt::<Request<Body>>::map_response(
        service,
        |response: Response<_>| response.map(Body::new),
    ))
}

/// Requests the response, with or without a key.
async fn ask(app: &App, caller: Option<&HeaderValue>) {
    let mut request = match caller {
        Some(caller) => Requests::bearing(CREDENTIAL, [caller.clone()]).next(),
        None => Requests::anonymous().next(),
    };
    *request.uri_mut() = "/v1/items/7?page=1".parse().expect("the target is valid");
    let mut app = app.clone();
    let ready = app.ready().await.expect("no layer fails");
    let response = ready.call(request).await.expect("no layer fails");
    assert!(response.status().is_success(), "{}", response.status());
    to_bytes(response.into_body(), 1 << 20)
        .await
        .expect("the body ends");
}

/// Sends requests until the response of this caller is stored on the server.
async fn until_hit(app: &App, caller: Option<&HeaderValue>, origin: &CachedOrigin) {
    for _ in 0..1_000 {
        let before = origin.asked();
        ask(app, caller).await;
        if origin.asked() == before {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the cache stores nothing");
}

/// Commands that scripts call. They count as part of the script.
const IN_SCRIPTS: &str = "del expire get hdel hexists hget hgetall hmget hset incr mget pexpire \
     pexpireat pttl publish set time unlink zadd zcard zmscore zrange zrangebylex zrem \
     zremrangebyrank zremrangebyscore xadd xrevrange info lrange llen lindex lset ltrim lrem \
     rpush";

/// Returns the number of commands that clients sent to a server.
fn commands_at(server: &Server) -> u64 {
    let stats = server.ask(&["INFO", "commandstats"]).as_text();
    let lines = stats
        .lines()
        .filter_map(|line| line.strip_prefix("cmdstat_"));
    let counted = lines.filter_map(|line| {
        let (name, rest) = line.split_once(":calls=")?;
        let is_own = !IN_SCRIPTS.split_whitespace().any(|known| known == name);
        is_own.then(|| rest.split(',').next()?.parse::<u64>().ok())?
    });
    counted.sum()
}

fn bytes() -> Vec<Case> {
    let case = |name, read: fn() -> f64| Case::gauge(name, Who::Ours, Unit::Bytes, read);
    let policies: [(&str, fn() -> Policy); 8] = [
        ("redis/fixed_window", || {
            policy(Policy::fixed_window("p", Quota::per_minute(100)))
        }),
        ("redis/aligned_window", || {
            policy(Policy::aligned_window("p", Quota::per_minute(100)))
        }),
        ("redis/calendar_month", || {
            policy(Policy::calendar_month("p", 100))
        }),
        ("redis/sliding_window", || {
            policy(Policy::sliding_window("p", Quota::per_minute(100)))
        }),
        ("redis/sliding_log", || {
            policy(Policy::sliding_log("p", Quota::per_minute(100)))
        }),
        ("redis/token_bucket", || {
            policy(Policy::token_bucket("p", Quota::per_minute(100)))
        }),
        ("redis/leaky_bucket", || {
            policy(Policy::leaky_bucket("p", Quota::per_minute(100)))
        }),
        ("redis/leaky_queue", || {
            let second = Duration::from_secs(1);
            policy(Policy::leaky_queue("p", Quota::per_minute(100), second))
        }),
    ];
    let each = policies.map(|(name, policy)| {
        let read = move || bytes_of_a_partition(&[policy()]);
        Case::gauge(name, Who::Ours, Unit::Bytes, read)
    });
    let three = || {
        bytes_of_a_partition(&[
            policy(Policy::token_bucket("burst", Quota::per_second(10))),
            policy(Policy::fixed_window("hour", Quota::per_hour(1_000))),
            policy(Policy::sliding_window("day", Quota::per_day(10_000))),
        ])
    };
    let mut cases = Vec::from(each);
    cases.extend([
        case("redis/three_policies", three),
        case("redis/key_record", bytes_of_a_key),
        case("redis/answer_1k", bytes_per_entry),
        case("redis/log_record", bytes_of_a_record),
    ]);
    cases
}

fn policy(made: Result<Policy, portcullis::ConfigError>) -> Policy {
    made.expect("the quota is within bounds")
}

/// Returns the bytes of a caller after a hundred requests.
fn bytes_of_a_partition(policies: &[Policy]) -> f64 {
    let (server, runtime) = (Server::start(), runtime());
    let store = store(&server);
    let charges: Vec<_> = policies
        .iter()
        .map(|policy| Charge::new(policy, 1))
        .collect();
    for _ in 0..100 {
        let taken = runtime.block_on(store.take(&partition(), &charges));
        taken.expect("the server replies");
    }
    memory_of(&server, ":l:{", &[]) as f64
}

/// The number of entries by which bytes are divided.
const MANY: usize = 1_000;

/// Returns the bytes of a key with its index entries. Each key has a different owner.
fn bytes_of_a_key() -> f64 {
    let (server, runtime) = (Server::start(), runtime());
    let manager = KeyManager::new(&ring(&server));
    for owner in 0..MANY {
        let made = manager.create(NewKey::new(format!("owner-{owner}")));
        runtime.block_on(made).expect("the server has room");
    }
    memory_of(&server, ":k:{", &[]) as f64 / MANY as f64
}

fn bytes_per_entry() -> f64 {
    let (server, runtime) = (Server::start(), runtime());
    let origin = CachedOrigin::default();
    let cache = CacheLayer::new(store(&server)).layer(origin.service());
    let app: App = BoxCloneSyncService::new(ServiceExt::<Request<Body>>::map_response(
        cache,
        |response: Response<_>| response.map(Body::new),
    ));
    runtime.block_on(until_hit(&app, None, &origin));
    memory_of(&server, ":c:{", &[":purges", ":lease"]) as f64
}

fn bytes_of_a_record() -> f64 {
    let (server, runtime) = (Server::start(), runtime());
    runtime.block_on(async {
        let queue = LogQueue::builder(store(&server), TokioRuntime).build();
        let queue = queue.expect("the defaults are valid");
        let layer = AccessLogLayer::new(queue.clone());
        let service = layer.layer(CachedOrigin::default().service());
        let mut requests = Requests::default();
        for _ in 0..MANY {
            let response = service.clone().oneshot(requests.next()).await;
            let body = response.expect("no layer fails").into_body();
            to_bytes(Body::new(body), 1 << 20)
                .await
                .expect("the body ends");
        }
        assert!(queue.flush().await, "a record was lost");
    });
    memory_of(&server, ":log:access", &[]) as f64 / MANY as f64
}

/// Returns the bytes of all keys whose names contain `part` and have none of these suffixes.
fn memory_of(server: &Server, part: &str, but: &[&str]) -> i64 {
    let names = server.keys();
    let names = names.iter().filter(|name| name.contains(part));
    let names: Vec<_> = names
        .filter(|name| !but.iter().any(|end| name.ends_with(end)))
        .collect();
    assert!(!names.is_empty(), "no key matches");
    let bytes = |name: &&String| {
        server
            .ask(&["MEMORY", "USAGE", name, "SAMPLES", "0"])
            .as_int()
    };
    names.iter().map(bytes).sum()
}
