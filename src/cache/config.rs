//! The configuration and shared state of a cache.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::Request;

use super::{
    entry::{jitter::Jitter, key::KeyMaker},
    fill::{budget::Budget, empty_body::EmptyBodies, order::Order},
    flight::{single_flight::Flights, storable::StorableMemory},
    http::{cache_status::CacheName, profile::Rules},
    lookup::{backoff::Backoffs, reloads::Reloads},
    policy::{policy::CachePolicy, policy_probe::Probes},
    store::{CacheStore, PurgeMode, PurgeTarget},
};
use crate::core::{
    audit::Audit,
    http::request_head::RequestHead,
    inherited_clock::InheritedClock,
    layer_order::Placement,
    runtime::{Runtime, Task},
    store_api::{
        store_future::StoreFuture, store_key::StoreKey, store_monitor::StoreWatch,
        timeout::Deadline,
    },
};

/// The configuration and shared state of a cache.
pub(crate) struct Config {
    pub(super) store: Arc<dyn CacheStore>,
    pub(super) keys: KeyMaker,
    pub(super) rules: Rules,
    /// The policy of requests that have none in their extensions.
    pub(super) policy: Option<CachePolicy>,
    /// Selects the policy of such a request, with priority over `policy`.
    pub(super) policy_with: Option<Arc<PolicyBy>>,
    pub(super) clock: InheritedClock,
    pub(super) runtime: Option<Arc<dyn Runtime>>,
    /// The name in `Cache-Status`. If `None`, the field is omitted.
    pub(super) name: Option<CacheName>,
    /// The maximum number of variants of one URL per partition.
    pub(super) max_variants: usize,
    /// The time for which a stale entry with a validator is retained.
    pub(super) retain_stale_for: Duration,
    pub(super) jitter: Jitter,
    pub(super) filling: Arc<Budget>,
    pub(super) purges: PurgeCounts,
    pub(super) reloads: Reloads,
    /// The maximum remaining size of a response that is read to its end without its client, in
    /// bytes.
    pub(super) max_finish_bytes: u64,
    /// The number of responses that are being read without their clients.
    pub(super) finishing: AtomicUsize,
    /// `true` if `Cache-Status` has a digest of the key.
    pub(super) shows_key: bool,
    pub(super) flights: Arc<Flights>,
    pub(super) storable: StorableMemory,
    pub(super) backoffs: Backoffs,
    pub(super) order: Arc<Order>,
    /// Bodies for a GET that is sent to the handler again.
    pub(super) empty_bodies: EmptyBodies,
    /// The timeout of a background refresh.
    pub(super) refresh_timeout: Duration,
    /// The maximum time that a request waits for the response to another request.
    pub(super) max_wait: Duration,
    pub(super) placement: Placement,
    pub(super) probes: Arc<Probes>,
    pub(super) audit: Audit,
    pub(super) watch: StoreWatch,
    /// The maximum time that a request waits for the store.
    pub(super) deadline: Deadline,
    /// The timeout of a store write. Only requests for the same response wait for it.
    pub(super) keeping: Deadline,
}

pub(super) type PolicyBy = dyn Fn(&RequestHead<'_>) -> Option<CachePolicy> + Send + Sync;

impl Config {
    /// Returns the policy of a request: the one in its extensions, the one that the function
    /// selects, or the default policy.
    #[inline]
    pub(super) fn policy_of<B>(&self, request: &Request<B>) -> Option<CachePolicy> {
        let own = request.extensions().get::<CachePolicy>();
        if let Some(own) = own.filter(|own| own.is_set()) {
            return Some(own.clone());
        }
        let choose = self.policy_with.as_ref();
        let chosen = choose.and_then(|choose| choose(&RequestHead::from(request)));
        chosen.or_else(|| self.policy.clone())
    }

    /// Runs a task in the background, if a runtime is available.
    pub(super) fn spawn(&self, task: Task) {
        if let Some(runtime) = self.runtime.as_ref().filter(|runtime| runtime.can_spawn()) {
            runtime.spawn(task);
        }
    }

    /// Returns a task that completes after this time, if a timer is available.
    pub(super) fn sleep(&self, duration: Duration) -> Option<Task> {
        self.runtime.as_ref()?.try_sleep(duration)
    }

    /// Returns `true` if background tasks can be spawned here.
    pub(super) fn can_spawn(&self) -> bool {
        let runtime = self.runtime.as_ref();
        runtime.is_some_and(|runtime| runtime.can_spawn())
    }

    /// Purges all matching entries.
    pub(super) fn purge(&self, targets: &[PurgeTarget], mode: PurgeMode) -> StoreFuture<()> {
        // Counted before the purge: if the count is unchanged after a lookup, the lookup missed no
        // purge.
        self.purges.count(targets);
        self.store.purge(targets, mode)
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("rules", &self.rules)
            .field("name", &self.name)
            .field("max_variants", &self.max_variants)
            .field("retain_stale_for", &self.retain_stale_for)
            .field("filling", &self.filling)
            .finish_non_exhaustive()
    }
}

/// Counts the purges of this cache by URL, in a table of fixed size whose slots URLs share.
pub(super) struct PurgeCounts {
    by_uri: Box<[AtomicU64]>,
    others: AtomicU64,
}

impl Default for PurgeCounts {
    fn default() -> Self {
        Self {
            by_uri: (0..PURGE_PLACES).map(|_| AtomicU64::new(0)).collect(),
            others: AtomicU64::new(0),
        }
    }
}

const PURGE_PLACES: usize = 256;

impl PurgeCounts {
    /// Counts one purge, once per slot of its URLs.
    fn count(&self, targets: &[PurgeTarget]) {
        let mut counted = [false; PURGE_PLACES];
        for target in targets {
            let PurgeTarget::Uri(uri) = target else {
                self.others.fetch_add(1, Ordering::SeqCst);
                continue;
            };
            let at = usize::from(uri.as_bytes()[0]);
            if !std::mem::replace(&mut counted[at], true) {
                self.by_uri[at].fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    /// Returns the number of purges begun that may have included a URL.
    pub(super) fn of(&self, uri: &StoreKey) -> u64 {
        let at = usize::from(uri.as_bytes()[0]);
        let by_uri = self.by_uri[at].load(Ordering::SeqCst);
        by_uri + self.others.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_purge_counts_once_for_each_url_that_it_may_be_of() {
        let key = |first: u8| StoreKey::from_bytes([first; 16]);
        let purges = PurgeCounts::default();
        purges.count(&[PurgeTarget::Uri(key(1)), PurgeTarget::Uri(key(1))]);
        purges.count(&[PurgeTarget::Uri(key(2))]);
        assert_eq!((purges.of(&key(1)), purges.of(&key(3))), (1, 0));
        purges.count(&[PurgeTarget::Tag(key(9)), PurgeTarget::All]);
        assert_eq!((purges.of(&key(1)), purges.of(&key(3))), (3, 2));
    }
}
