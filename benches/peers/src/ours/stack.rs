//! Our layers, alone and stacked by `Gate`, and the glued stack.

use std::fmt::Debug;
use std::io;

use axum::body::Body;
use http::{Request, Response};
use portcullis::{
    ClientAddrResolver, Gate, GateLayer,
    access_log::{AccessLogLayer, sinks::JsonLines},
    api_key::ApiKeyLayer,
    cache::CacheLayer,
    rate_limit::{Partition, RateLimitFields, RateLimitLayer},
    store::MemoryStore,
};
use tower::{Layer, Service};

use super::{keys::Keys, limits};
use crate::harness::{Case, Run, Who};
use crate::peers::glued;
use crate::workload::{CachedOrigin, Requests, bare_router, drive, drive_hits, origin, router};

/// The layers of the gate, each alone.
const LAYERS: &[&str] = &[
    "stack/access_log",
    "stack/address_limit",
    "stack/api_key",
    "stack/identified/limit",
    "stack/identified/cache",
];

pub fn cases() -> Vec<Case> {
    let keys = Keys::new();
    let mut cases = vec![
        Case::bare("stack", drive(origin(), keys.requests())),
        bare_router("stack/router"),
        // The bare service of layers that need an identity, which excludes authentication.
        Case::bare("stack/identified", drive_identified(&keys, origin())),
    ];
    cases.extend(alone(&keys));
    cases.extend(stacked(&keys));
    cases.extend(glued::cases(keys.secrets(), &keys.requests()));
    cases.push(Case::sum("stack/sum", Who::Ours, &["stack/miss"]));
    cases.push(Case::sum("stack/sum", Who::Peer("layers"), LAYERS));
    cases
}

fn alone(keys: &Keys) -> [Case; LAYERS.len()] {
    let log = AccessLogLayer::new(JsonLines::direct(io::sink()));
    let limit = limit(
        MemoryStore::new(),
        Partition::identity(),
        RateLimitFields::Off,
    );
    let cache = CacheLayer::new(MemoryStore::new());
    let by_address = limits::layer(RateLimitFields::Off);
    let runs = [
        drive(log.layer(origin()), keys.requests()),
        drive(by_address.layer(origin()), keys.requests()),
        drive(keys.layer().layer(origin()), keys.requests()),
        drive_identified(keys, limit.layer(origin())),
        drive_identified(keys, cache.layer(origin())),
    ];
    let mut names = LAYERS.iter();
    runs.map(|run| Case::ours(names.next().expect("each layer has a name"), run))
}

fn stacked(keys: &Keys) -> Vec<Case> {
    let cached = CachedOrigin::default();
    let gate = |fields| gate(keys, fields);
    let off = RateLimitFields::Off;
    vec![
        Case::ours(
            "stack/miss",
            drive(gate(off).layer(origin()), keys.requests()),
        ),
        Case::ours(
            "stack/miss_with_fields",
            drive(
                gate(RateLimitFields::Draft11).layer(origin()),
                keys.requests(),
            ),
        ),
        Case::ours(
            "stack/router/miss",
            drive(router().layer(gate(off)), keys.requests()),
        ),
        Case::ours(
            "stack/hit",
            drive_hits(gate(off).layer(cached.service()), &cached, keys.requests()),
        )
        .whole(),
    ]
}

/// Returns the work of a row whose requests have an identity and no credential, as after the API
/// key layer.
fn drive_identified<S, B>(keys: &Keys, service: S) -> Run
where
    S: Service<Request<Body>, Response = Response<B>, Error: Debug> + 'static,
    B: http_body::Body + 'static,
{
    drive(keys.identified(service), Requests::anonymous())
}

/// Returns all layers stacked, with these fields on responses.
pub fn gate(keys: &Keys, fields: RateLimitFields) -> GateLayer {
    let store = MemoryStore::new();
    let by_address = Partition::client_addr(ClientAddrResolver::default());
    Gate::new()
        .access_log(AccessLogLayer::new(JsonLines::direct(io::sink())))
        .rate_limit_by_address(limit(store.clone(), by_address, fields))
        .api_keys(keys.layer())
        .rate_limit_by_identity(limit(store.clone(), Partition::identity(), fields))
        .cache(CacheLayer::new(store))
        .build()
        .expect("the stack is valid")
}

fn limit(store: MemoryStore, partition: Partition, fields: RateLimitFields) -> RateLimitLayer {
    RateLimitLayer::builder(store, partition)
        .policy(limits::wide())
        .fields(fields)
        .build()
        .expect("one policy is enough")
}
