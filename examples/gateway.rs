//! An axum service behind all four layers, on one store.
//!
//! ```text
//! cargo run --example gateway
//! ```
//!
//! The store is in memory by default. To share keys, limits, cached responses and the log among
//! instances on Redis, build with `--features redis` and set `REDIS_URL`, `STORE_SECRET` and
//! `PEPPER` (at least 32 bytes each, the same for each instance).
//!
//! The service listens on 127.0.0.1:3000, or on `PORTCULLIS_ADDR`. It creates three demo keys and
//! prints them with `curl` commands. The access log is JSON lines on stderr. On SIGINT (Ctrl-C) and
//! SIGTERM it finishes running requests, within 10 s.
#![allow(clippy::disallowed_methods, reason = "a slow stream sleeps")]

use std::{
    env,
    error::Error,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use axum::{
    Extension, Json, Router,
    body::{Body, Bytes},
    extract::{ConnectInfo, Request, State},
    http::header::{CACHE_CONTROL, CONTENT_TYPE},
    middleware::map_request,
    response::IntoResponse,
    routing::{get, post},
};
use http_body_util::channel::Channel;
use portcullis::{
    ClientAddrResolver, ConfigError, Gate, Identity, PeerAddr, TokioRuntime,
    access_log::{
        AccessLogLayer, LogStore,
        sinks::{JsonLines, LogQueue},
    },
    api_key::{ApiKeyLayer, ApiKeyStore, KeyManager, KeyRing, NewKey, Pepper, RequireScopesLayer},
    cache::{CacheLayer, CacheStore},
    rate_limit::{
        OnStoreError, Partition, Policy, Quota, RateLimitFields, RateLimitLayer, RateLimitStore,
        Tiers,
    },
    shutdown::Shutdown,
    store::MemoryStore,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Created first, so that notices of the store are lines of the log.
    let lines = JsonLines::stderr();
    match env::var("REDIS_URL") {
        Ok(url) => on_redis(url, lines).await,
        // The keys in memory end with the process, so their pepper can be random.
        Err(_) => serve(MemoryStore::new(), Pepper::random(1), lines).await,
    }
}

/// A store that all four layers share.
trait Store: ApiKeyStore + RateLimitStore + CacheStore + LogStore + Clone {}

impl<T: ApiKeyStore + RateLimitStore + CacheStore + LogStore + Clone> Store for T {}

async fn serve(store: impl Store, pepper: Pepper, lines: JsonLines) -> Result<(), Box<dyn Error>> {
    let ring = KeyRing::builder("demo", store.clone())
        .pepper(pepper)
        .build()?;
    let keys = DemoKeys::create(&KeyManager::new(&ring)).await?;
    let log = LogQueue::builder(store.clone(), TokioRuntime).build()?;
    let app = router(&ring, store, lines.clone(), log.clone())?;

    let addr = env::var("PORTCULLIS_ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let shutdown = Shutdown::on_signal()?;
    let listener = TcpListener::bind(&addr).await?;
    keys.print(listener.local_addr()?);
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    let server = axum::serve(listener, service).with_graceful_shutdown(shutdown.requested());
    shutdown.drain(server).await.transpose()?;
    // Flush records and use counts after the last request.
    lines.flush(Duration::from_secs(5));
    log.flush().await;
    ring.flush().await?;
    Ok(())
}

/// Builds the router: routes inside the gate, and a health check outside it.
fn router(
    ring: &KeyRing,
    store: impl Store,
    lines: JsonLines,
    log: LogQueue,
) -> Result<Router, ConfigError> {
    // While Redis is unavailable, this instance counts locally.
    let memory = MemoryStore::new();
    let local = || OnStoreError::local(memory.clone(), 1);
    let in_ten_seconds = |limit| Quota::new(limit, Duration::from_secs(10));
    let by_address = Partition::client_addr(ClientAddrResolver::default());
    let tiers = Tiers::new("free")
        .tier("free", [Policy::fixed_window("free", in_ten_seconds(10))?])
        .tier("pro", [Policy::fixed_window("pro", in_ten_seconds(100))?]);

    let gate = Gate::new()
        .access_log(AccessLogLayer::builder().sink(lines).sink(log).build()?)
        .rate_limit_by_address(
            RateLimitLayer::builder(store.clone(), by_address)
                .policy(Policy::fixed_window("address", in_ten_seconds(300))?)
                .on_store_error(local())
                .build()?,
        )
        // Optional, because `/public` requires no key. The other routes require a key.
        .api_keys(ApiKeyLayer::builder(ring).optional().build()?)
        .rate_limit_by_identity(
            RateLimitLayer::builder(store.clone(), Partition::identity())
                .tiers(tiers)
                .on_store_error(local())
                .fields(RateLimitFields::Draft11)
                .build()?,
        )
        .cache(CacheLayer::new(store))
        .build()?
        .count_request_bodies();

    let any_key = RequireScopesLayer::none();
    let may_read = RequireScopesLayer::all(["data.read"])?;
    let may_write = RequireScopesLayer::all(["data.write"])?;
    let data = get(read_data)
        .layer(may_read)
        .merge(post(write_data).layer(may_write));

    Ok(Router::new()
        .route("/public", get(public))
        .route("/data", data)
        .route("/me", get(me).layer(any_key.clone()))
        .route("/time", get(time).layer(any_key.clone()))
        .route("/stream", get(stream).layer(any_key))
        .with_state(Calls::default())
        .layer(gate)
        .route("/healthz", get("ok\n"))
        // With the feature `axum`, portcullis reads `ConnectInfo` itself.
        .layer(map_request(peer_addr)))
}

/// Serves with a store on Redis, which all instances share.
#[cfg(feature = "redis")]
async fn on_redis(url: String, lines: JsonLines) -> Result<(), Box<dyn Error>> {
    use portcullis::store::{RedisConfig, RedisStore, StoreKeys, TieredStore};

    // Read them from a secret manager in production. With another pepper all keys are invalid; with
    // another store secret an instance counts separately.
    let secret = |name: &str| {
        env::var(name).map_err(|_| format!("{name} is not set; REDIS_URL requires it"))
    };
    let keys = StoreKeys::from_secret(secret("STORE_SECRET")?.as_bytes())?;
    let pepper = Pepper::new(1, secret("PEPPER")?)?;
    let redis = RedisStore::new(RedisConfig::single(url), keys)?;
    serve(TieredStore::new(redis.clone(), 32 << 20), pepper, lines).await?;
    redis.close().await;
    Ok(())
}

#[cfg(not(feature = "redis"))]
async fn on_redis(_: String, _: JsonLines) -> Result<(), Box<dyn Error>> {
    Err("REDIS_URL requires the feature `redis`; build with `--features redis`, or unset it".into())
}

/// The number of handler calls. Cache hits are not counted.
type Calls = Arc<AtomicU64>;

async fn public(State(calls): State<Calls>) -> impl IntoResponse {
    let call = calls.fetch_add(1, Ordering::Relaxed) + 1;
    let body = json!({ "message": "public", "handler_call": call });
    ([(CACHE_CONTROL, "public, max-age=60")], Json(body))
}

async fn read_data(
    State(calls): State<Calls>,
    Extension(caller): Extension<Identity>,
) -> impl IntoResponse {
    let call = calls.fetch_add(1, Ordering::Relaxed) + 1;
    let body = json!({ "data_of": caller.owner(), "handler_call": call });
    ([(CACHE_CONTROL, "max-age=60")], Json(body))
}

async fn write_data(State(calls): State<Calls>) -> Json<Value> {
    let call = calls.fetch_add(1, Ordering::Relaxed) + 1;
    Json(json!({ "written": true, "handler_call": call }))
}

async fn me(Extension(caller): Extension<Identity>) -> Json<Value> {
    Json(json!({
        "key_id": caller.key_id(),
        "owner": caller.owner(),
        "tier": caller.tier(),
        "scopes": caller.scopes().collect::<Vec<_>>(),
    }))
}

async fn time() -> impl IntoResponse {
    let since_epoch = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let body = json!({ "unix_seconds": since_epoch.as_secs() });
    ([(CACHE_CONTROL, "no-store")], Json(body))
}

/// Sends a line every 200 ms. The record of the request is written after the last one.
async fn stream() -> impl IntoResponse {
    let (mut sender, body) = Channel::<Bytes, axum::Error>::new(1);
    tokio::spawn(async move {
        for line in 1..=5 {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let line = format!("line {line} of 5\n");
            // The client has disconnected.
            if sender.send_data(line.into()).await.is_err() {
                break;
            }
        }
    });
    ([(CONTENT_TYPE, "text/plain")], Body::new(body))
}

/// Inserts the peer address that the gate reads.
async fn peer_addr(ConnectInfo(addr): ConnectInfo<SocketAddr>, mut request: Request) -> Request {
    request.extensions_mut().insert(PeerAddr(addr));
    request
}

/// The keys of the demo.
struct DemoKeys {
    free: String,
    pro: String,
    admin: String,
}

impl DemoKeys {
    async fn create(manager: &KeyManager) -> Result<Self, Box<dyn Error>> {
        let create = async |owner: &str, tier: &str, scopes: &[&str]| {
            let key = NewKey::new(owner).tier(tier).scopes(scopes.iter().copied());
            // The secret is available only now.
            manager
                .create(key)
                .await
                .map(|key| key.expose_secret().to_owned())
        };
        Ok(Self {
            free: create("freya", "free", &["data.read"]).await?,
            pro: create("petra", "pro", &["data.read"]).await?,
            admin: create("adam", "pro", &["data.read", "data.write"]).await?,
        })
    }

    fn print(&self, addr: SocketAddr) {
        println!("listening on http://{addr}");
        println!("free key: {}", self.free);
        println!("pro key: {}", self.pro);
        println!("admin key: {}", self.admin);
        println!();
        println!("curl -i http://{addr}/public");
        println!("curl -i http://{addr}/data");
        println!("curl -i -H 'x-api-key: {}' http://{addr}/data", self.free);
        println!(
            "curl -i -H 'authorization: Bearer {}' http://{addr}/data",
            self.pro
        );
        println!(
            "curl -i -X POST -H 'x-api-key: {}' http://{addr}/data",
            self.admin
        );
        println!("curl -i -H 'x-api-key: {}' http://{addr}/me", self.pro);
        println!("curl -iN -H 'x-api-key: {}' http://{addr}/stream", self.pro);
    }
}
