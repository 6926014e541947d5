//! The end of a fill: the response is stored, or the store is abandoned.

use std::sync::Arc;

use super::{order::FillTurn, replaced::Replaced};
use crate::{
    cache::{
        config::Config,
        entry::{key::CacheKey, packing::Packer},
        flight::{
            lease::HeldLease,
            single_flight::{Landing, Lead},
        },
        lookup::{assured::assured, reason::CacheReason},
        store::{PurgeMode, PurgeTarget, Put, PutOutcome},
    },
    core::{
        error::StoreError, record::RecordHandle, runtime::Task,
        store_api::store_future::ReadyOrPending,
    },
};

/// A complete response.
pub(super) struct Done {
    pub(super) config: Arc<Config>,
    pub(super) lead: Option<Lead>,
    pub(super) lease: Option<Box<HeldLease>>,
    pub(super) record: Option<RecordHandle>,
    pub(super) replaced: Replaced,
    pub(super) turn: FillTurn,
    pub(super) put: Put,
}

impl Done {
    /// Compresses the body, if that makes it shorter.
    pub(super) fn packed(mut self, packer: Packer) -> Self {
        let entry = Arc::get_mut(&mut self.put.entry).expect("the entry is not shared yet");
        let len = u32::try_from(entry.body.len()).ok();
        if let Some((len, body)) = len.zip((packer.pack)(&entry.body)) {
            entry.packed = Some(len);
            entry.body = body;
        }
        self
    }

    /// Stores the response, after the removal of the entries under another key or variant that it
    /// invalidates. Returns the rest of the work if the store does not reply at once.
    pub(super) fn keep(self) -> Option<Task> {
        let (key, variant) = (&self.put.key, &self.put.entry.variant);
        let elsewhere = self.replaced.elsewhere(key, variant);
        let removed = self
            .config
            .keeping
            .bound(elsewhere.invalidate(&self.config));
        let ReadyOrPending::Pending(removed) = removed.into_ready() else {
            return self.store();
        };
        Some(Box::pin(async move {
            // If the store fails, it retains the entry until that expires.
            let _ = removed.await;
            if let Some(rest) = self.store() {
                rest.await;
            }
        }))
    }

    fn store(self) -> Option<Task> {
        let Self {
            config,
            lead,
            lease,
            record,
            replaced,
            turn,
            put,
        } = self;
        let landing = Landed {
            replaced,
            lead,
            lease,
            record,
        };
        if !turn.complete() {
            if turn.refuse() {
                purge_url(&config, &put.key);
            }
            landing.give_way(&config);
            return None;
        }
        let key = put.key;
        let stored = config.keeping.bound(config.store.put(put));
        let stored = config.watch.over(stored, || None).into_ready();
        let landed = move |outcome| {
            let is_stored = matches!(outcome, Ok(PutOutcome::Stored));
            // An older one must not remain in its place.
            if turn.is_refused() || (!is_stored && turn.refuse()) {
                purge_url(&config, &key);
            }
            landing.land(&config, &outcome);
        };
        match stored {
            ReadyOrPending::Ready(outcome) => {
                landed(outcome);
                None
            }
            ReadyOrPending::Pending(pending) => {
                Some(Box::pin(async move { landed(pending.await) }))
            }
        }
    }
}

/// The resources that are released at the end of a fill.
pub(super) struct Landed {
    pub(super) replaced: Replaced,
    pub(super) lead: Option<Lead>,
    pub(super) lease: Option<Box<HeldLease>>,
    pub(super) record: Option<RecordHandle>,
}

impl Landed {
    /// Ends the flight, and amends the record if it is still open.
    fn land(self, config: &Arc<Config>, outcome: &Result<PutOutcome, StoreError>) {
        let (landing, reason) = match outcome {
            Ok(PutOutcome::Stored) => (Landing::Stored, None),
            // The response was purged while it was generated: a waiter requests another one.
            Ok(PutOutcome::Purged) => (Landing::Abandoned, Some(CacheReason::Purged)),
            Ok(PutOutcome::TooLarge) => (Landing::NotStored, Some(CacheReason::TooLarge)),
            Err(_) => (Landing::NotStored, Some(CacheReason::Store)),
        };
        if self.lead.is_none() {
            config.flights.count_stored();
        }
        match reason {
            None => self.finish(landing),
            Some(reason) => {
                amend(self.record.clone(), reason);
                self.end(config, landing);
            }
        }
    }

    /// Ends the flight without a stored response: a newer one has arrived.
    fn give_way(self, config: &Arc<Config>) {
        amend(self.record.clone(), CacheReason::Superseded);
        self.end(config, Landing::Abandoned);
    }

    pub(super) fn end(mut self, config: &Arc<Config>, landing: Landing) {
        let replaced = std::mem::take(&mut self.replaced);
        replaced.invalidate_before(config, move || self.finish(landing));
    }

    fn finish(self, landing: Landing) {
        drop(self.lease);
        if let Some(lead) = self.lead {
            lead.land(landing);
        }
    }
}

/// Purges the responses of a URL, in the background if the store does not reply at once. Called if
/// an older response was stored concurrently with the arrival of a newer one that is not storable.
pub(super) fn purge_url(config: &Arc<Config>, key: &CacheKey) {
    let purge = config.purge(&[PurgeTarget::Uri(*key.uri())], PurgeMode::Hard);
    if let ReadyOrPending::Pending(pending) = assured(config, purge, drop).into_ready() {
        config.spawn(Box::pin(async move {
            // If the store fails, it retains the entry until that expires.
            let _ = pending.await;
        }));
    }
}

/// Corrects the record of a response whose fill has failed.
pub(super) fn amend(record: Option<RecordHandle>, reason: CacheReason) {
    if let Some(record) = record {
        record.amend_cache(|outcome| {
            outcome.stored = false;
            outcome.ttl_secs = None;
            outcome.detail = Some(reason.as_str());
        });
    }
}
