//! The right to make an answer, among all processes that share a store.

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

/// How long a request waits at first, and at most, before it looks whether another process has made
/// the answer.
const PAUSE_MIN: Duration = Duration::from_millis(10);
pub(crate) const PAUSE_MAX: Duration = Duration::from_millis(160);

/// How a request stands to the lease of its answer.
#[derive(Debug, Default)]
pub(crate) struct Leasing {
    // In a box: most requests need none, and carry the place for it along.
    held: Option<Box<HeldLease>>,
    /// Whether the answer is made without one.
    waived: bool,
    /// For how long other processes were waited for.
    waited: Duration,
}

/// What a request does about its lease.
pub(crate) enum Move {
    /// It looks once more, now that nobody else makes the answer.
    Look,
    /// It makes the answer.
    Make,
    /// It looks once more after a while.
    Pause(Task),
}

/// Asks the store for the lease of an answer. One that comes when nobody waits for it any more is
/// given back.
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
    /// Returns whether the store is still to be asked for a lease.
    pub(crate) fn is_open(&self) -> bool {
        self.held.is_none() && !self.waived
    }

    /// Asks for the lease of an answer that is made beside the request, unless it is held already, or
    /// the store has none to give.
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

    /// Takes what the store said. A store that fails, or that another process holds up for longer
    /// than a request waits, holds up no request; and where nothing tells the time, none waits.
    pub(crate) fn take(
        &mut self,
        answer: Result<Lease, StoreError>,
        config: &Arc<Config>,
        key: CacheKey,
    ) -> Move {
        match answer {
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
        // Each wait is as long as all before it: a quick answer is seen soon, and a slow one is asked
        // for seldom.
        let pause = self.waited.clamp(PAUSE_MIN, PAUSE_MAX);
        let pause = pause.min(rest.max(PAUSE_MIN));
        self.waited += pause;
        config.sleep(pause)
    }

    fn waive(&mut self) -> Move {
        self.waived = true;
        Move::Make
    }

    /// Gives the lease to what stores the answer.
    pub(crate) fn hand_over(&mut self) -> Option<Box<HeldLease>> {
        self.held.take()
    }
}

/// A lease. It is given back when it is dropped.
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
        // One that cannot be given back ends by itself.
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
