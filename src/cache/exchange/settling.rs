//! The writes to the store that a response waits for.

use super::exchange::Exchange;
use crate::{
    cache::{
        flight::single_flight::{Landing, Lead},
        lookup::plan::PostAsGet,
    },
    core::store_api::store_future::StoreFuture,
};

/// The writes to the store that must end before the client is sent a response.
pub(crate) struct Settling {
    pub(crate) settled: StoreFuture<()>,
    /// Whether the answer is kept after that.
    pub(crate) keep: Option<Box<PostFill>>,
}

/// An answer to a POST that is kept for GET, once the purge is done that it brings itself.
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
    /// Bounds and watches a write that the client waits for.
    pub(super) fn settle(&self, write: StoreFuture<()>) -> StoreFuture<()> {
        let write = self.config.deadline.bound(write);
        self.config.watch.over(write, || self.record.clone())
    }
}

/// Lands a flight once a write to the store is done: those who wait must see it.
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
        None | Some(Ok(_)) => {
            land();
            None
        }
        Some(Err(pending)) => Some(Settling::from(StoreFuture::pending(async move {
            let written = pending.await;
            land();
            written
        }))),
    }
}
