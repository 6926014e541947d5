//! Our rate limiter.

use std::net::IpAddr;

use portcullis::{
    ClientAddr, ClientAddrResolver,
    rate_limit::{Partition, Policy, Quota, RateLimitFields, RateLimitLayer, RateLimitStore},
    store::{
        MemoryStore,
        backend::{Charge, KeySpace, ReadyOrPending, StoreKey},
    },
};
use tower::Layer;

use crate::harness::{Case, Unit, Who};
use crate::workload::{Requests, bytes_per_key, decisions, drive, origin, router};

pub fn cases() -> Vec<Case> {
    let layers = vec![
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
    ];
    let bytes = || {
        bytes_per_key(Limiter::million_keys, |limiter, key| {
            limiter.decide(limiter.space.short_key(key.as_bytes()))
        })
    };
    let all = [
        layers,
        decisions::<String, _, _>(Who::Ours, Limiter::million_keys, |limiter, key| {
            limiter.decide(limiter.space.short_key(key.as_bytes()));
        }),
        decisions::<IpAddr, _, _>(Who::Ours, Limiter::million_keys, |limiter, key| {
            limiter.decide(ClientAddr::from(*key).store_key(&limiter.space));
        }),
        decisions::<u64, _, _>(Who::Ours, Limiter::million_keys, |limiter, key| {
            limiter.decide(limiter.space.short_key(&key.to_le_bytes()));
        }),
        vec![
            Case::gauge("memory/1m", Who::Ours, Unit::Bytes, bytes),
            Case::gauge("key/1m", Who::Ours, Unit::Bytes, bytes),
        ],
    ];
    all.into_iter().flatten().collect()
}

/// Limits by client address, the default of the peer.
pub fn layer(fields: RateLimitFields) -> RateLimitLayer {
    let partition = Partition::client_addr(ClientAddrResolver::default());
    RateLimitLayer::builder(MemoryStore::new(), partition)
        .policy(wide())
        .fields(fields)
        .build()
        .expect("one policy is enough")
}

/// A limit that denies no row, and a refill so slow that no state expires.
pub fn wide() -> Policy {
    let quota = Quota::per_second(1).burst(1_000_000_000);
    Policy::token_bucket("wide", quota).expect("the quota is within bounds")
}

/// A limiter without HTTP.
struct Limiter {
    store: MemoryStore,
    space: KeySpace,
    policy: Policy,
}

impl Limiter {
    fn million_keys() -> Self {
        let store = MemoryStore::builder()
            .max_rate_limit_partitions(1_000_000)
            .build()
            .expect("the bound is no zero");
        Self {
            space: RateLimitStore::keys(&store).space("peers"),
            policy: wide(),
            store,
        }
    }

    /// Decides for a key that is digested as in the layer.
    fn decide(&self, partition: StoreKey) {
        let charges = [Charge::new(&self.policy, 1)];
        let decided = self.store.take(&partition, &charges).into_ready();
        assert!(matches!(decided, ReadyOrPending::Ready(Ok(decisions)) if decisions.is_admitted()));
    }
}
