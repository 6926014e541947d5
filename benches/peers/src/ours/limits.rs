//! Our rate limiter, beside the peers.

use portcullis::{
    ClientAddrResolver,
    rate_limit::{
        Charge, Partition, Policy, Quota, RateLimitFields, RateLimitLayer, RateLimitStore,
    },
    store::MemoryStore,
};
use tower::Layer;

use crate::harness::Case;
use crate::workload::{Requests, decide_keys, drive, origin, router};

pub fn cases() -> Vec<Case> {
    vec![
        Case::ours(
            "layer/service_fn/plain",
            drive(
                layer(RateLimitFields::Off).layer(origin()),
                Requests::default(),
            ),
        ),
        Case::ours(
            "layer/service_fn/headers",
            drive(
                layer(RateLimitFields::Draft11).layer(origin()),
                Requests::default(),
            ),
        ),
        Case::ours(
            "layer/router/plain",
            drive(
                router().layer(layer(RateLimitFields::Off)),
                Requests::default(),
            ),
        ),
        Case::ours(
            "layer/router/headers",
            drive(
                router().layer(layer(RateLimitFields::Draft11)),
                Requests::default(),
            ),
        ),
        Case::ours("decision/string/1k/1t", decide_strings()),
    ]
}

/// Limits by the client's address, as the peer does by default.
pub fn layer(fields: RateLimitFields) -> RateLimitLayer {
    let partition = Partition::client_addr(ClientAddrResolver::default());
    RateLimitLayer::builder(MemoryStore::new(), partition)
        .policy(wide())
        .fields(fields)
        .build()
        .expect("one policy is enough")
}

/// So wide that no row is ever denied.
pub fn wide() -> Policy {
    let quota = Quota::per_second(1_000_000).burst(1_000_000_000);
    Policy::token_bucket("wide", quota).expect("the quota is within bounds")
}

/// Digests the key, as the layer does, and decides.
fn decide_strings() -> Box<dyn FnMut(u64)> {
    let (store, policy) = (MemoryStore::new(), wide());
    let space = RateLimitStore::keys(&store).space("peers");
    decide_keys(move |key: &String| {
        let mut partition = space.short();
        partition.field(key.as_bytes());
        let charges = [Charge::new(&policy, 1)];
        let decided = store.take(&partition.finish(), &charges).into_ready();
        assert!(matches!(decided, Ok(Ok(decisions)) if decisions.is_admitted()));
    })
}
