//! The lease that grants one of the instances that share a store the right to fill an entry.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    cache::{
        config::Config,
        entry::key::CacheKey,
        lookup::assured::assured,
        store::{Lease, LeaseToken},
    },
    core::{error::StoreError, runtime::Task, store_api::store_future::StoreFuture},
};

/// The shortest pause before a request checks whether another instance has stored the response.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// The longest pause.
pub(crate) const PAUSE_MAX: Duration = Duration::from_millis(160);

/// The state of a request's lease.
#[derive(Debug, Default)]
pub(crate) struct Leasing {
    // Boxed: most requests need no lease.
    held: Option<Box<HeldLease>>,
    /// `true` if the handler is called without a lease.
    waived: bool,
    /// The time waited for other instances.
    waited: Duration,
}

/// The next step of a request after a lease reply.
pub(crate) enum Move {
    /// It looks the response up again: no other instance fills it now.
    Look,
    /// It calls the handler.
    Make,
    /// It looks the response up again after a pause.
    Pause(Task),
}

/// Requests the lease of a response from the store. A lease that arrives after its request was
/// dropped is released.
pub(crate) fn ask(config: &Arc<Config>, key: CacheKey) -> StoreFuture<Lease> {
    let leased = config.store.lease(&key, config.max_wait);
    if let StoreFuture::Ready(_) = &leased {
        return leased;
    }
    let late = Arc::clone(config);
    let leased = assured(config, leased, move |lease| {
        if let Lease::Leader(token) = lease {
            drop(HeldLease::new(&late, key, token));
        }
    });
    config.deadline.bound(leased)
}

impl Leasing {
    /// Returns `true` if a lease has still to be requested.
    pub(crate) fn is_open(&self) -> bool {
        self.held.is_none() && !self.waived
    }

    /// Requests the lease for a background refresh. Returns `None` if it is already held or the
    /// store does not support leases.
    pub(crate) fn ask(
        &mut self,
        config: &Arc<Config>,
        key: CacheKey,
    ) -> Option<StoreFuture<Lease>> {
        if !self.is_open() {
            return None;
        }
        match ask(config, key) {
            StoreFuture::Ready(Some(Ok(Lease::Unsupported))) => {
                self.waived = true;
                None
            }
            leased => Some(config.watch.over(leased, || None)),
        }
    }

    /// Handles the store's reply. Requests do not wait if the store fails or there is no timer, nor
    /// for longer than `max_wait` in total.
    pub(crate) fn take(
        &mut self,
        reply: Result<Lease, StoreError>,
        config: &Arc<Config>,
        key: CacheKey,
    ) -> Move {
        match reply {
            Ok(Lease::Leader(token)) => {
                self.held = Some(Box::new(HeldLease::new(config, key, token)));
                Move::Look
            }
            Ok(Lease::Busy(rest)) => match self.pause(rest, config) {
                Some(pause) => Move::Pause(pause),
                None => self.waive(),
            },
            Ok(Lease::Unsupported) | Err(_) => self.waive(),
        }
    }

    fn pause(&mut self, rest: Duration, config: &Config) -> Option<Task> {
        if self.waited >= config.max_wait {
            return None;
        }
        // Each pause is as long as all previous ones together: quick responses are seen soon, and
        // slow ones cause few lookups.
        let pause = self.waited.clamp(PAUSE_MIN, PAUSE_MAX);
        let pause = pause.min(rest.max(PAUSE_MIN));
        self.waited += pause;
        config.sleep(pause)
    }

    fn waive(&mut self) -> Move {
        self.waived = true;
        Move::Make
    }

    /// Transfers the lease to the fill.
    pub(crate) fn hand_over(&mut self) -> Option<Box<HeldLease>> {
        self.held.take()
    }
}

/// A lease. Dropping it releases it.
pub(crate) struct HeldLease {
    config: Arc<Config>,
    key: CacheKey,
    token: LeaseToken,
}

impl HeldLease {
    fn new(config: &Arc<Config>, key: CacheKey, token: LeaseToken) -> Self {
        Self {
            config: Arc::clone(config),
            key,
            token,
        }
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        let released = self.config.store.release(&self.key, self.token);
        // A lease that cannot be released expires.
        if let StoreFuture::Pending(_) = &released {
            let released = self.config.keeping.bound(released);
            self.config.spawn(Box::pin(async move {
                let _ = released.await;
            }));
        }
    }
}

impl fmt::Debug for HeldLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HeldLease")
    }
}
