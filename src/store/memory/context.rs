//! The clock, key secret and limits of the in-memory store.

use std::sync::Arc;

use crate::core::{store_api::store_key::StoreKeys, time::Clock};

/// The shared inputs of all tables.
#[derive(Debug)]
pub(super) struct MemoryContext {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) keys: StoreKeys,
    pub(super) limits: MemoryLimits,
}

/// The maximum size of each table.
#[derive(Clone, Debug)]
pub(super) struct MemoryLimits {
    pub(super) max_api_keys: usize,
    pub(super) max_rate_limit_partitions: usize,
    pub(super) max_cache_bytes: u64,
    pub(super) max_log_records: usize,
    pub(super) max_log_bytes: usize,
}
