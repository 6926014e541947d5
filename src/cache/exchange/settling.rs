//! The writes to the store for which a response waits.

use super::exchange::Exchange;
use crate::{
    cache::{
        fill::replaced::Replaced,
        flight::single_flight::{Landing, Lead},
        lookup::plan::PostAsGet,
    },
    core::store_api::store_future::{ReadyOrPending, StoreFuture},
};

/// The writes to the store that must complete before the response is sent to the client.
pub(crate) struct Settling {
    pub(crate) settled: StoreFuture<()>,
    /// Present if the response is stored after that.
    pub(crate) keep: Option<Box<PostFill>>,
}

/// The response to a POST that is stored as one to a GET, after the purge that the POST itself
/// causes.
pub(crate) struct PostFill {
    pub(super) exchange: Exchange,
    pub(super) as_got: PostAsGet,
}

impl From<StoreFuture<()>> for Settling {
    fn from(settled: StoreFuture<()>) -> Self {
        Self {
            settled,
            keep: None,
        }
    }
}

impl Exchange {
    /// Applies the store's timeout to a write for which the client waits, and watches it.
    pub(super) fn settle(&self, write: StoreFuture<()>) -> StoreFuture<()> {
        let write = self.config.deadline.bound(write);
        self.config.watch.over(write, || self.record.clone())
    }

    /// Removes outdated entries from the store. Returns `None` if there are none.
    pub(super) fn invalidate(&self, replaced: &Replaced) -> Option<StoreFuture<()>> {
        (!replaced.is_empty()).then(|| self.settle(replaced.invalidate(&self.config)))
    }
}

/// Lands a flight after a write to the store, so that the waiters see it.
pub(super) fn land_after(
    write: Option<StoreFuture<()>>,
    lead: Option<Lead>,
    landing: Landing,
) -> Option<Settling> {
    let land = move || {
        if let Some(lead) = lead {
            lead.land(landing);
        }
    };
    match write.map(StoreFuture::into_ready) {
        None | Some(ReadyOrPending::Ready(_)) => {
            land();
            None
        }
        Some(ReadyOrPending::Pending(pending)) => {
            Some(Settling::from(StoreFuture::pending(async move {
                let written = pending.await;
                land();
                written
            })))
        }
    }
}
