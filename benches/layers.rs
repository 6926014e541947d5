//! Allocations of each layer above the bare service, compared with their documented maximum.
//!
//! ```text
//! cargo bench --bench layers
//! ```
//!
//! Allocation counts are the same on any machine, so this benchmark fails if one exceeds its
//! maximum. `benches/peers` compares times with those of other crates.
#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::{convert::Infallible, hint::black_box, process::ExitCode};

use allocation_counter::measure;
use bytes::Bytes;
use http::{Request, Response, header::CACHE_CONTROL};
use http_body_util::{BodyExt, Full};
use portcullis::{
    ClientAddrResolver, Gate, Identity, PeerAddr,
    access_log::{AccessLogLayer, sinks::JsonLines},
    api_key::{ApiKeyLayer, KeyManager, KeyRing, NewKey, Pepper},
    cache::CacheLayer,
    rate_limit::{
        Partition, Policy, Quota, RateLimitFields, RateLimitLayer, RateLimitLayerBuilder,
    },
    store::MemoryStore,
};
use tokio::runtime::Runtime;
use tower::{Layer, Service, ServiceExt, service_fn};

/// The number of requests per case. Figures are per request, rounded up.
const REQUESTS: u64 = 1_000;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let key = Key::create(&runtime);
    let bare = allocations(&runtime, &key, service_fn(respond));
    let alone = measure(|| (0..REQUESTS).for_each(|_| drop(black_box(request(&key))))).count_total
        / REQUESTS;
    println!("bare service and request: {bare} allocations, {alone} of them for the request");

    let mut over = false;
    let mut report = |name: &str, above: u64, maximum: Option<u64>| {
        let verdict = maximum.map_or(String::new(), |most| {
            over |= above > most;
            format!(
                " (at most {most}){}",
                if above > most { " EXCEEDED" } else { "" }
            )
        });
        println!("ALLOCS {name} {above}{verdict}");
    };

    let plain = limits(Partition::client_addr(ClientAddrResolver::default()));
    let layer = plain.build().unwrap();
    let above = allocations(&runtime, &key, layer.layer(service_fn(respond))) - bare;
    report("rate_limit/address", above, Some(0));

    let layer = limits(Partition::identity()).build().unwrap();
    let above = allocations(&runtime, &key, layer.layer(service_fn(respond))) - bare;
    report("rate_limit/identity", above, Some(0));

    let fields = limits(Partition::identity()).fields(RateLimitFields::Draft11);
    let layer = fields.build().unwrap();
    let above = allocations(&runtime, &key, layer.layer(service_fn(respond))) - bare;
    report("rate_limit/identity with fields", above, Some(2));

    let above = allocations(&runtime, &key, key.layer.layer(service_fn(respond))) - bare;
    report("api_key/warm", above, None);

    let layer = CacheLayer::new(MemoryStore::new());
    let above = allocations(&runtime, &key, layer.layer(service_fn(respond))) - alone;
    report("cache/hit, above the request alone", above, Some(5));

    let layer = AccessLogLayer::new(JsonLines::direct(std::io::sink()));
    let above = allocations(&runtime, &key, layer.layer(service_fn(respond))) - bare;
    report("access_log/json", above, None);

    let store = MemoryStore::new();
    let gate = Gate::new()
        .access_log(AccessLogLayer::new(JsonLines::direct(std::io::sink())))
        .rate_limit_by_address(
            limits(Partition::client_addr(ClientAddrResolver::default()))
                .build()
                .unwrap(),
        )
        .api_keys(key.layer.clone())
        .rate_limit_by_identity(limits(Partition::identity()).build().unwrap())
        .cache(CacheLayer::new(store))
        .build()
        .unwrap();
    let above = allocations(&runtime, &key, gate.layer(service_fn(respond))) - alone;
    report("gate/hit, above the request alone", above, None);

    let gate = Gate::new().build().unwrap();
    let above = allocations(&runtime, &key, gate.layer(service_fn(respond))) - bare;
    report("gate/without layers", above, Some(0));

    if over {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// A key, its identity, and the layer that accepts it.
struct Key {
    secret: String,
    identity: Identity,
    layer: ApiKeyLayer,
}

impl Key {
    fn create(runtime: &Runtime) -> Self {
        let ring = KeyRing::builder("acmepay", MemoryStore::new())
            .pepper(Pepper::random(1))
            .build()
            .unwrap();
        let manager = KeyManager::new(&ring);
        let key = runtime
            .block_on(manager.create(NewKey::new("freya")))
            .unwrap();
        Self {
            secret: key.expose_secret().to_owned(),
            identity: key.record().identity().clone(),
            layer: ApiKeyLayer::builder(&ring).build().unwrap(),
        }
    }
}

fn limits(partition: Partition) -> RateLimitLayerBuilder {
    let policy = Policy::token_bucket("wide", Quota::per_second(1_000_000)).unwrap();
    RateLimitLayer::builder(MemoryStore::new(), partition).policy(policy)
}

/// Returns the allocations of one request through a warm service, including those of the request.
fn allocations<S, B>(runtime: &Runtime, key: &Key, mut service: S) -> u64
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = Infallible>,
    B: http_body::Body<Data = Bytes, Error: std::fmt::Debug>,
{
    let mut run = |requests: u64| {
        runtime.block_on(async {
            for _ in 0..requests {
                let ready = service.ready().await.unwrap();
                let response = ready.call(request(key)).await.unwrap();
                let mut body = std::pin::pin!(response.into_body());
                while let Some(frame) = body.frame().await {
                    black_box(frame.unwrap());
                }
            }
        });
    };
    run(100);
    measure(|| run(REQUESTS)).count_total.div_ceil(REQUESTS)
}

/// Returns a request as an HTTP server creates it: headers, a peer address and an identity.
fn request(key: &Key) -> Request<Full<Bytes>> {
    let mut request = Request::get("http://acme.test/data")
        .header("accept", "application/json")
        .header("user-agent", "bench")
        .header("x-api-key", key.secret.as_str())
        .body(Full::default())
        .unwrap();
    let peer = PeerAddr(([203, 0, 113, 9], 4711).into());
    request.extensions_mut().insert(peer);
    request.extensions_mut().insert(key.identity.clone());
    request
}

async fn respond(_: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, Infallible> {
    let response = Response::builder().header(CACHE_CONTROL, "max-age=3600");
    Ok(response.body(Full::from("hello")).unwrap())
}
