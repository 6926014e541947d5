//! Detects a policy that is inserted into a request's extensions inside the cache, where the policy
//! has no effect.

use std::{
    ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
};

use crate::core::{error::ConfigError, notice};

/// The maximum number of probed requests.
const PROBED_MAX: u32 = 256;

/// The probes of one cache.
#[derive(Debug)]
pub(in crate::cache) struct Probes {
    left: AtomicU32,
    is_reported: AtomicBool,
}

impl Default for Probes {
    fn default() -> Self {
        Self {
            left: AtomicU32::new(PROBED_MAX),
            is_reported: AtomicBool::new(false),
        }
    }
}

impl Probes {
    /// Returns `true` if the next request is probed.
    #[inline]
    pub(in crate::cache) fn is_open(&self) -> bool {
        self.left.load(Ordering::Relaxed) > 0
    }
}

/// Detects that the policy with this probe is replaced.
///
/// Extensions drop a value in place, together with all others. A value that another one replaces is
/// moved out first, and dropped at another address.
#[derive(Clone, Debug)]
pub(in crate::cache) struct Probe {
    probes: Arc<Probes>,
    address: Arc<AtomicUsize>,
}

/// Probes do not affect the equality of policies.
impl PartialEq for Probe {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Probe {}

impl Probe {
    pub(in crate::cache) fn new(probes: &Arc<Probes>) -> Self {
        let left = probes.left.load(Ordering::Relaxed);
        probes.left.store(left.saturating_sub(1), Ordering::Relaxed);
        Self {
            probes: Arc::clone(probes),
            address: Arc::default(),
        }
    }

    /// Records the address of the value in the extensions.
    pub(in crate::cache) fn placed_at<T>(&self, value: &T) {
        let address = ptr::from_ref(value).addr();
        self.address.store(address, Ordering::Relaxed);
    }

    /// Compares the address at which the value is dropped.
    #[cold]
    pub(in crate::cache) fn dropped_at<T>(&self, value: &T) {
        let placed_at = self.address.load(Ordering::Relaxed);
        if placed_at != 0 && placed_at != ptr::from_ref(value).addr() {
            self.probes.left.store(0, Ordering::Relaxed);
            notice::misconfigured(&self.probes.is_reported, too_late);
        }
    }
}

fn too_late() -> ConfigError {
    ConfigError::new(
        "CachePolicy",
        "inserted inside of the cache",
        "the response was looked up before the policy was in the request's extensions, so the policy \
         has no effect",
    )
    .fix(
        "select it with `CacheLayerBuilder::policy_with`, insert it in a layer outside of the cache, or apply \
         the cache to the route inside of the layer that inserts it",
    )
}
