//! Notices a policy that is put into a request's extensions inside of the cache, where it is too late.

use std::{
    ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
};

use crate::core::{error::ConfigError, notice};

/// The number of requests that are probed.
const PROBED_MAX: u32 = 256;

/// The probes of one cache.
#[derive(Debug)]
pub(in crate::cache) struct Probes {
    left: AtomicU32,
    is_said: AtomicBool,
}

impl Default for Probes {
    fn default() -> Self {
        Self {
            left: AtomicU32::new(PROBED_MAX),
            is_said: AtomicBool::new(false),
        }
    }
}

impl Probes {
    /// Returns whether the next request is probed.
    #[inline]
    pub(in crate::cache) fn is_open(&self) -> bool {
        self.left.load(Ordering::Relaxed) > 0
    }
}

/// Notices the replacement of the policy that it belongs to.
///
/// Extensions drop a value where it lies, together with all others. A value that another one replaces is
/// moved out first, and dropped at another address.
#[derive(Clone, Debug)]
pub(in crate::cache) struct Probe {
    probes: Arc<Probes>,
    address: Arc<AtomicUsize>,
}

/// A probe is no part of what a policy says.
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

    /// Notes where the value lies in the extensions.
    pub(in crate::cache) fn placed_at<T>(&self, value: &T) {
        let address = ptr::from_ref(value).addr();
        self.address.store(address, Ordering::Relaxed);
    }

    /// Notes where the value is dropped.
    #[cold]
    pub(in crate::cache) fn dropped_at<T>(&self, value: &T) {
        let placed_at = self.address.load(Ordering::Relaxed);
        if placed_at != 0 && placed_at != ptr::from_ref(value).addr() {
            self.probes.left.store(0, Ordering::Relaxed);
            notice::misconfigured(&self.probes.is_said, too_late);
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
        "choose it by `CacheLayerBuilder::policy_with`, insert it in a layer outside of the cache, or apply \
         the cache to the route inside of the layer that inserts it",
    )
}
