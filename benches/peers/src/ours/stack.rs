//! Our layers, alone and stacked by `Gate`.

use std::io;

use portcullis::{
    ClientAddrResolver, Gate, GateLayer,
    access_log::{AccessLogLayer, JsonLines},
    api_key::ApiKeyLayer,
    cache::CacheLayer,
    rate_limit::{Partition, RateLimitFields, RateLimitLayer},
    store::MemoryStore,
};
use tower::Layer;

use super::{keys::Keys, limits};
use crate::harness::Case;
use crate::workload::{CachedOrigin, Requests, drive, drive_hits, origin, router};

type FullGate = GateLayer<AccessLogLayer, RateLimitLayer, ApiKeyLayer, RateLimitLayer, CacheLayer>;

pub fn cases() -> Vec<Case> {
    let keys = Keys::new();
    let log = || AccessLogLayer::new(JsonLines::direct(io::sink()));
    let cache = || CacheLayer::new(MemoryStore::new());
    let cached = CachedOrigin::default();
    vec![
        Case::ours(
            "stack/service_fn/access_log",
            drive(log().layer(origin()), Requests::default()),
        ),
        Case::ours(
            "stack/service_fn/rate_limit",
            drive(
                limits::layer(RateLimitFields::Off).layer(origin()),
                Requests::default(),
            ),
        ),
        Case::ours(
            "stack/service_fn/api_key",
            drive(keys.layer().layer(origin()), keys.requests()),
        ),
        Case::ours(
            "stack/service_fn/cache miss",
            drive(cache().layer(origin()), Requests::anonymous()),
        ),
        Case::ours(
            "stack/service_fn/gate miss",
            drive(gate(&keys).layer(origin()), keys.requests()),
        ),
        Case::ours(
            "stack/router/gate miss",
            drive(router().layer(gate(&keys)), keys.requests()),
        ),
        Case::ours(
            "stack/gate hit",
            drive_hits(
                gate(&keys).layer(cached.service()),
                &cached,
                keys.requests(),
            ),
        ),
    ]
}

fn gate(keys: &Keys) -> FullGate {
    let store = MemoryStore::new();
    let limit = |partition| {
        RateLimitLayer::builder(store.clone(), partition)
            .policy(limits::wide())
            .build()
            .expect("one policy is enough")
    };
    Gate::new()
        .access_log(AccessLogLayer::new(JsonLines::direct(io::sink())))
        .limit_addresses(limit(Partition::client_addr(ClientAddrResolver::default())))
        .api_keys(keys.layer())
        .limit_callers(limit(Partition::identity()))
        .cache(CacheLayer::new(store.clone()))
        .build()
        .expect("the layers fit one another")
}
