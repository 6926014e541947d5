//! The in-memory store.

use super::{
    ApiKeyTable, CacheTable, LogRings, RateLimitTable,
    context::{MemoryContext, MemoryLimits},
};

use std::{fmt, sync::Arc};

use crate::core::{
    error::ConfigError,
    store_api::store_key::StoreKeys,
    time::{Clock, SystemClock},
};

/// An in-memory store for all four layers.
///
/// A single store serves every layer; a clone is a handle to the same store. The size of each table
/// is limited. No background task runs; instead, expired items are replaced when their memory is
/// needed.
///
/// | Table | Default limit | Beyond the limit |
/// |---|---|---|
/// | API keys | 100 000 keys | creating another key fails |
/// | rate limits | 100 000 partitions | new partitions share counts, so usage can be overcounted but never undercounted |
/// | cache | 64 MiB, including headers and index | the least useful entry is evicted |
/// | access log | 1 000 records, 1 MiB | the oldest record is evicted |
///
/// Purges take 512 KiB in addition to the cache, regardless of their number. The cost of a purge
/// does not depend on the number of entries. A purge removes only the entries that it targets. If
/// tens of thousands of purges occur during one fill, a purge of another name may cause that fill
/// to be rejected. The response is then not stored.
///
/// ```
/// use portcullis::store::MemoryStore;
///
/// let store = MemoryStore::builder()
///     .max_cache_bytes(256 << 20)
///     .max_rate_limit_partitions(1_000_000)
///     .build()?;
/// # let _ = store;
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct MemoryStore {
    pub(super) shared: Arc<MemoryInner>,
}

pub(super) struct MemoryInner {
    pub(super) context: MemoryContext,
    pub(super) access_log: LogRings,
    pub(super) api_key: ApiKeyTable,
    pub(super) cache: CacheTable,
    pub(super) rate_limit: RateLimitTable,
}

impl MemoryStore {
    /// Creates a store with the default limits and the system clock.
    pub fn new() -> Self {
        Self::with_clock(SystemClock::new())
    }

    /// Creates a store with the default limits and a custom clock.
    pub fn with_clock(clock: impl Clock) -> Self {
        Self::builder().clock(clock).with_keys(StoreKeys::random())
    }

    /// Creates a builder with the default limits and the system clock.
    pub fn builder() -> MemoryStoreBuilder {
        MemoryStoreBuilder {
            clock: None,
            bounds: MemoryLimits {
                max_api_keys: 100_000,
                max_rate_limit_partitions: 100_000,
                max_cache_bytes: 64 << 20,
                max_log_records: 1_000,
                max_log_bytes: 1 << 20,
            },
        }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("bounds", &self.shared.context.limits)
            .finish_non_exhaustive()
    }
}

/// A builder of [`MemoryStore`]. Created by [`MemoryStore::builder`].
#[derive(Debug)]
#[must_use]
pub struct MemoryStoreBuilder {
    pub(super) clock: Option<Arc<dyn Clock>>,
    pub(super) bounds: MemoryLimits,
}

impl MemoryStoreBuilder {
    /// Sets the clock. Defaults to the system clock.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Sets the maximum number of API keys. Defaults to 100 000. The value must be at least 1.
    pub fn max_api_keys(mut self, keys: usize) -> Self {
        self.bounds.max_api_keys = keys;
        self
    }

    /// Sets the maximum number of rate-limit partitions. Defaults to 100 000. The value must be at
    /// least 1.
    ///
    /// A partition counts once for each policy that applies to it, and each such count takes 45
    /// bytes. The table takes an additional 280 kB of memory, which is allocated at the first
    /// request. Sliding logs store timestamps of 16 bytes each, with an average of at most 8
    /// timestamps per partition.
    pub fn max_rate_limit_partitions(mut self, partitions: usize) -> Self {
        self.bounds.max_rate_limit_partitions = partitions;
        self
    }

    /// Sets the maximum size of cached responses in bytes, including headers and index. Defaults to
    /// 64 MiB. The value must be at least 1.
    pub fn max_cache_bytes(mut self, bytes: u64) -> Self {
        self.bounds.max_cache_bytes = bytes;
        self
    }

    /// Sets the maximum number of log records. Defaults to 1 000. The value must be at least 1.
    pub fn max_log_records(mut self, records: usize) -> Self {
        self.bounds.max_log_records = records;
        self
    }

    /// Sets the maximum size of log records in bytes. Defaults to 1 MiB. The value must be at least
    /// 1.
    pub fn max_log_bytes(mut self, bytes: usize) -> Self {
        self.bounds.max_log_bytes = bytes;
        self
    }

    /// Builds the store.
    ///
    /// # Errors
    ///
    /// Returns an error if a limit is 0.
    pub fn build(self) -> Result<MemoryStore, ConfigError> {
        let bounds = &self.bounds;
        let named = [
            ("max_api_keys", bounds.max_api_keys == 0),
            (
                "max_rate_limit_partitions",
                bounds.max_rate_limit_partitions == 0,
            ),
            ("max_cache_bytes", bounds.max_cache_bytes == 0),
            ("max_log_records", bounds.max_log_records == 0),
            ("max_log_bytes", bounds.max_log_bytes == 0),
        ];
        match named.into_iter().find(|(_, zero)| *zero) {
            Some((option, _)) => Err(ConfigError::new(option, 0, "it must be at least 1")
                .fix("increase it, or drop the call to use the default")),
            None => Ok(self.with_keys(StoreKeys::random())),
        }
    }

    /// Builds the store with these keys. Tests pass fixed keys, so that no digests collide by
    /// chance.
    pub(super) fn with_keys(self, keys: StoreKeys) -> MemoryStore {
        let context = MemoryContext {
            clock: self.clock.unwrap_or_else(|| Arc::new(SystemClock::new())),
            keys,
            limits: self.bounds,
        };
        MemoryStore {
            shared: Arc::new(MemoryInner {
                access_log: LogRings::new(&context),
                api_key: ApiKeyTable::new(&context),
                cache: CacheTable::new(&context),
                rate_limit: RateLimitTable::new(&context),
                context,
            }),
        }
    }
}
