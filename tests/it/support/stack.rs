//! The four layers over one store, and a gate of all of them.

use portcullis::{
    ClientAddrResolver, Gate, GateLayer, ManualClock,
    access_log::{AccessLogLayer, sinks::RecentRecords},
    api_key::{ApiKeyLayer, ApiKeyStore, KeyManager, KeyRing, NewKey, Pepper},
    cache::{CacheLayer, CacheStore},
    rate_limit::{Partition, Policy, Quota, RateLimitLayer, RateLimitStore},
};

/// The four layers over one store, and a key that they know.
#[derive(Clone, Debug)]
pub(crate) struct Stack {
    pub(crate) access_log: AccessLogLayer,
    pub(crate) records: RecentRecords,
    pub(crate) addresses: RateLimitLayer,
    pub(crate) api_keys: ApiKeyLayer,
    pub(crate) callers: RateLimitLayer,
    pub(crate) cache: CacheLayer,
    pub(crate) key: String,
}

impl Stack {
    /// Builds the layers over a store: a hundred requests a second for the caller's one key.
    pub(crate) async fn over<S>(store: S, clock: ManualClock) -> Self
    where
        S: ApiKeyStore + RateLimitStore + CacheStore + Clone,
    {
        let ring = KeyRing::builder("acmepay", store.clone())
            .pepper(Pepper::random(1))
            .clock(clock.clone())
            .build()
            .unwrap();
        let new_key = NewKey::new("freya").scopes(["data.read"]);
        let key = KeyManager::new(&ring).create(new_key).await.unwrap();
        let limit = |name, partition| {
            let policy = Policy::fixed_window(name, Quota::per_second(100)).unwrap();
            RateLimitLayer::builder(store.clone(), partition)
                .policy(policy)
                .build()
                .unwrap()
        };
        let by_address = Partition::client_addr(ClientAddrResolver::default());
        let (access_log, records) = AccessLogLayer::test();
        Self {
            access_log,
            records,
            addresses: limit("address", by_address),
            api_keys: ApiKeyLayer::builder(&ring).build().unwrap(),
            callers: limit("caller", Partition::identity()),
            cache: CacheLayer::secure(store)
                .clock(clock.clone())
                .build()
                .unwrap(),
            key: key.expose_secret().to_owned(),
        }
    }

    /// Stacks all layers.
    pub(crate) fn gate(&self) -> GateLayer {
        Gate::new()
            .access_log(self.access_log.clone())
            .rate_limit_by_address(self.addresses.clone())
            .api_keys(self.api_keys.clone())
            .rate_limit_by_identity(self.callers.clone())
            .cache(self.cache.clone())
            .build()
            .unwrap()
    }
}
