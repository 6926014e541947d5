//! The local state of rate limits on Redis.

use std::sync::{Arc, atomic::AtomicBool};

use super::{
    batches::Batches, carried::Carried, deferred::DeferredCharges, denied::DenialMemory,
    leases::Leases,
};
use crate::{core::store_api::store_key::StoreKeys, store::redis::connection::client::Link};

/// The local state of rate limits.
#[derive(Debug)]
pub(crate) struct RateLimitState {
    pub(super) denied: DenialMemory,
    pub(super) leases: Leases,
    pub(super) deferred: DeferredCharges,
    pub(super) batches: Arc<Batches>,
    pub(super) carried: Carried,
    /// `true` while a task returns idle leases and sends overdue reports.
    pub(super) is_tended: AtomicBool,
}

impl RateLimitState {
    pub(crate) fn new(link: &Arc<Link>, _: &StoreKeys) -> Self {
        Self {
            denied: DenialMemory::new(link.max_cached_denials()),
            leases: Leases::new(),
            deferred: DeferredCharges::default(),
            batches: Batches::new(link, link.max_batch()),
            carried: Carried::default(),
            is_tended: AtomicBool::new(false),
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.leases.is_empty() && self.deferred.is_empty()
    }
}
