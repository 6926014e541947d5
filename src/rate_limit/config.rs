//! The options of a limiter.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    admission::{charging::Charging, penalty::Bans, queue::TurnQueue},
    counted::Checks,
    failover::stores::Stores,
    headers::RateLimitFields,
    partition::caller_list::CallerRules,
};
use crate::core::{
    audit::Audit, http::responder::Responder, inherited::Inherited, store_api::store_key::StoreKey,
};

/// The options of a limiter.
pub(crate) struct RateLimitConfig {
    pub(super) stores: Stores,
    pub(super) charging: Charging,
    pub(super) callers: CallerRules,
    pub(super) responses: ResponseOptions,
    pub(super) bans: Option<Arc<Bans>>,
    /// The waiting requests. `None` if there is no runtime.
    pub(super) queue: Option<Arc<TurnQueue>>,
    pub(super) audit: Audit,
    pub(super) checks: Checks,
}

/// The response options of a limiter.
#[derive(Default)]
pub(super) struct ResponseOptions {
    pub(super) fields: RateLimitFields,
    pub(super) responder: Inherited<Responder>,
    pub(super) retry_jitter: Duration,
    /// `true` if the outcome is inserted into the extensions of admitted requests and their
    /// responses.
    pub(super) exposes_outcome: bool,
}

impl ResponseOptions {
    /// Returns the jitter of a partition. The jitter is constant for each partition and differs
    /// between most partitions.
    // Combines both halves of the digest, so that it discloses neither.
    pub(super) fn jitter(&self, partition: &StoreKey) -> Duration {
        let [.., low, _, _, _, _, _, _, _, high] = *partition.as_bytes();
        self.retry_jitter.saturating_mul(u32::from(low ^ high)) / 255
    }
}

impl fmt::Debug for RateLimitConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("store", &self.stores.options.store)
            .field("partition", &self.charging.partition)
            .field("sets", &self.charging.sets)
            .finish_non_exhaustive()
    }
}
