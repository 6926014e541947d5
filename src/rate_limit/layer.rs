//! The layer, and how it is built.

use std::{fmt, sync::Arc};

use tower_layer::Layer;

use super::{
    config::{Config, OnStoreError},
    headers::RateLimitFields,
    partition::Partition,
    policy::Policy,
    policy_set::{PolicySets, Tiers},
    service::RateLimit,
    store::RateLimitStore,
};
use crate::{error::ConfigError, rejection::Responder};

/// Limits how often a partition of the requests may pass: see the [module](super).
#[derive(Clone, Debug)]
pub struct RateLimitLayer {
    config: Arc<Config>,
}

impl RateLimitLayer {
    /// Begins a limiter that counts in this store, and says who shares a quota.
    pub fn builder(store: impl RateLimitStore, partition: Partition) -> RateLimitLayerBuilder {
        RateLimitLayerBuilder {
            store: Arc::new(store),
            partition,
            policies: Vec::new(),
            tiers: None,
            fields: RateLimitFields::default(),
            on_store_error: OnStoreError::default(),
            responder: Responder::default(),
        }
    }
}

impl RateLimitLayer {
    /// Returns whether the limiter counts or chooses by something of the caller's identity.
    pub(crate) fn reads_identity(&self) -> bool {
        self.config.partition.reads_identity() || self.config.sets.by_tier()
    }

    /// Returns whether the limiter lets every request pass whose caller is not known.
    pub(crate) fn needs_identity(&self) -> bool {
        self.config.partition.needs_identity()
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimit<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimit::new(inner, Arc::clone(&self.config))
    }
}

/// Builds a [`RateLimitLayer`].
#[must_use]
pub struct RateLimitLayerBuilder {
    store: Arc<dyn RateLimitStore>,
    partition: Partition,
    policies: Vec<Policy>,
    tiers: Option<Tiers>,
    fields: RateLimitFields,
    on_store_error: OnStoreError,
    responder: Responder,
}

impl RateLimitLayerBuilder {
    /// Adds a policy that each request must pass.
    ///
    /// Several are decided together: denied by one, a request is charged to none.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policies.push(policy);
        self
    }

    /// Sets which further policies the callers of each tier must pass.
    pub fn tiers(mut self, tiers: Tiers) -> Self {
        self.tiers = Some(tiers);
        self
    }

    /// Sets which header fields tell callers of their limits. None by default.
    pub fn fields(mut self, fields: RateLimitFields) -> Self {
        self.fields = fields;
        self
    }

    /// Sets what happens to a request when the store fails. It is turned away by default.
    pub fn on_store_error(mut self, action: OnStoreError) -> Self {
        self.on_store_error = action;
        self
    }

    /// Sets who writes the bodies of rejections.
    pub fn responder(mut self, responder: Responder) -> Self {
        self.responder = responder;
        self
    }

    /// Returns the layer.
    ///
    /// # Errors
    ///
    /// If there is no policy, two of one request have the same name, or the tiers have no
    /// fallback.
    pub fn build(self) -> Result<RateLimitLayer, ConfigError> {
        let sets = PolicySets::new(&self.policies, self.tiers.as_ref())?;
        if sets.is_empty() {
            return Err(ConfigError::new(
                "policies",
                "empty",
                "a limiter without a policy limits nothing",
            )
            .fix("add one with `policy`, or tiers that have some"));
        }
        let config = Config {
            space: self.store.keys().space("rate-limit"),
            store: self.store,
            partition: self.partition,
            sets,
            fields: self.fields,
            on_store_error: self.on_store_error,
            responder: self.responder,
        };
        Ok(RateLimitLayer {
            config: Arc::new(config),
        })
    }
}

impl fmt::Debug for RateLimitLayerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitLayerBuilder")
            .field("partition", &self.partition)
            .field("policies", &self.policies)
            .field("tiers", &self.tiers)
            .finish_non_exhaustive()
    }
}
