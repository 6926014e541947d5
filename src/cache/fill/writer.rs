//! A response that is being stored while it streams to the client.

use std::{
    mem,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::{
    budget::Open,
    completion::{Done, Landed, amend, purge_url},
    order::{Coverage, FillTurn},
    relay::Relay,
    replaced::Replaced,
};
use crate::{
    cache::{
        config::Config,
        entry::{
            entry::StoredResponse,
            key::CacheKey,
            packing::{self, Packer},
        },
        flight::{
            lease::HeldLease,
            single_flight::{Landing, Lead},
            storable::Storable,
        },
        http::{
            freshness::Freshness,
            vary::{VariantId, VarySpec},
        },
        lookup::reason::CacheReason,
        store::Fence,
    },
    core::{
        record::RecordHandle,
        store_api::{store_future::StoreFuture, store_key::StoreKey},
    },
};

/// A response that is being stored.
///
/// It is committed when its body has ended without error and with the expected length. Dropped
/// before, it stores nothing.
#[derive(Debug)]
pub(crate) struct ResponseFill {
    pub(crate) config: Arc<Config>,
    pub(crate) head: FillHead,
    pub(super) expected_bytes: Option<u64>,
    /// The stored partial response that this one extends.
    pub(crate) part: Option<Arc<StoredResponse>>,
    /// The lead of the flight whose waiters wait for this response.
    pub(crate) lead: Option<Lead>,
    /// The lease among instances. Released when the response is stored.
    pub(crate) lease: Option<Box<HeldLease>>,
    /// The compressor of the body, if it is compressible.
    pub(crate) packer: Option<Packer>,
    /// The record of the request, which reports the response as stored.
    pub(crate) record: Option<RecordHandle>,
    /// The stored responses that this one replaces or invalidates, stored or not.
    pub(crate) replaced: Replaced,
    /// The URL's route, if it has one.
    pub(crate) route: Option<StoreKey>,
    /// Its place in the order of responses, until it is complete.
    turn: Option<FillTurn>,
    pub(super) chunks: Vec<Bytes>,
    /// The registered chunks, while the fill waits for more of the body.
    open: Option<Arc<Open>>,
    bytes: u64,
    /// The stream for requests that read the body meanwhile.
    relay: Option<Arc<Relay>>,
}

/// A stored response without its body.
#[derive(Debug)]
pub(crate) struct FillHead {
    pub(crate) key: CacheKey,
    pub(crate) fence: Fence,
    pub(crate) retain: Duration,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) freshness: Freshness,
    pub(crate) vary: VarySpec,
    pub(crate) variant: VariantId,
    pub(crate) partition: StoreKey,
    /// `true` if it is stored in the shared partition.
    pub(crate) is_shared: bool,
    pub(crate) says_shared: bool,
    pub(crate) tags: Vec<StoreKey>,
}

impl ResponseFill {
    /// Starts a fill. `other_key` is that of the other partition that its request looks up.
    pub(crate) fn new(
        config: Arc<Config>,
        head: FillHead,
        other_key: Option<&CacheKey>,
        expected_bytes: Option<u64>,
    ) -> Self {
        let turn = config.order.begin(Coverage {
            key: *head.key.full(),
            other_key: other_key.map(|key| *key.full()),
            says_shared: head.says_shared,
            vary: head.vary.clone(),
            variant: head.variant,
        });
        Self {
            turn: Some(turn),
            config,
            head,
            expected_bytes,
            part: None,
            lead: None,
            lease: None,
            packer: None,
            record: None,
            replaced: Replaced::default(),
            route: None,
            chunks: Vec::new(),
            open: None,
            bytes: 0,
            relay: None,
        }
    }

    /// Starts to stream the response to the waiters. Returns `None` if they have to wait until it
    /// is stored: it is partial content, or there is no flight.
    pub(crate) fn stream(&mut self) -> Option<Arc<Relay>> {
        let is_part = self.part.is_some() || self.head.status == StatusCode::PARTIAL_CONTENT;
        if is_part || self.lead.is_none() {
            return None;
        }
        let turn = Arc::clone(self.turn.as_ref()?.state());
        let open = Arc::clone(self.lay_down());
        let head = &self.head;
        let relay = Relay::new(
            head.key,
            head.fence,
            turn,
            self.streamed_head(),
            self.expected_bytes,
            open,
        );
        let relay = Arc::new(relay);
        self.relay = Some(Arc::clone(&relay));
        if let Some(lead) = &self.lead {
            lead.publish(Arc::clone(&relay));
        }
        Some(relay)
    }

    /// Ends the use of the stored responses that this one replaces or invalidates, before this one
    /// is sent to another request.
    pub(super) fn make_way(&self) -> StoreFuture<()> {
        let (config, head) = (&self.config, &self.head);
        let made = self.replaced.make_way(config, &head.key, &head.variant);
        config.keeping.bound(made)
    }

    /// Returns the response without its body.
    fn streamed_head(&self) -> StoredResponse {
        let head = &self.head;
        let mut headers = head.headers.clone();
        if let Some(bytes) = self.expected_bytes {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
        }
        if self.packer.is_some() {
            packing::vary_by_coding(&mut headers);
        }
        StoredResponse {
            status: head.status,
            headers,
            body: Bytes::new(),
            freshness: head.freshness,
            vary: head.vary.clone(),
            variant: head.variant,
            partition: head.partition,
            says_shared: head.says_shared,
            tags: head.tags.clone(),
            packed: None,
            seal: None,
        }
    }

    /// Retains a piece of the body. Returns an error if it exceeds the maximum or the budget.
    pub(crate) fn push(&mut self, chunk: &Bytes) -> Result<(), CacheReason> {
        let bytes = chunk.len() as u64;
        if self.bytes + bytes > self.config.rules.max_body_bytes {
            return Err(CacheReason::TooLarge);
        }
        let config = &self.config;
        if !config.filling.take(bytes, || config.clock.coarse()) {
            return Err(CacheReason::Busy);
        }
        self.bytes += bytes;
        match &self.open {
            None => self.chunks.push(chunk.clone()),
            Some(open) if open.push(chunk.clone()) => {}
            Some(_) => {
                config.filling.give_back(bytes);
                return Err(CacheReason::Busy);
            }
        }
        Ok(())
    }

    /// Registers the retained pieces with the budget until more arrive. They may be evicted until
    /// then.
    pub(super) fn wait_for_more(&mut self) {
        if self.bytes > 0 {
            self.lay_down();
        }
    }

    fn lay_down(&mut self) -> &Arc<Open> {
        self.open.get_or_insert_with(|| {
            let pieces = mem::take(&mut self.chunks);
            let now = self.config.clock.coarse();
            self.config.filling.open(pieces, now)
        })
    }

    /// Takes the registered pieces back. Returns `false` if they were evicted.
    fn take_up(&mut self) -> bool {
        let Some(open) = self.open.take() else {
            return true;
        };
        let pieces = self.config.filling.close(&open);
        let has_all = pieces.is_some();
        match pieces {
            Some(pieces) => self.chunks = pieces,
            // The eviction has already returned the bytes.
            None => self.bytes = 0,
        }
        has_all
    }

    /// Returns `true` if the expected length has arrived.
    pub(super) fn is_complete(&self) -> bool {
        self.expected_bytes == Some(self.bytes)
    }

    /// Returns `true` if the rest of the body is short enough to be read without its client.
    pub(super) fn is_short(&self) -> bool {
        let all = self
            .expected_bytes
            .unwrap_or(self.config.rules.max_body_bytes);
        let max_bytes = self.config.max_finish_bytes;
        max_bytes > 0 && all.saturating_sub(self.bytes) <= max_bytes
    }

    /// Returns `true` if another request waits for the response.
    pub(crate) fn has_waiters(&self) -> bool {
        self.lead.as_ref().is_some_and(Lead::has_waiters)
    }

    /// Keeps further requests from waiting for the response or streaming it: its body hangs.
    pub(crate) fn retire(&self) {
        if let Some(lead) = &self.lead {
            lead.retire();
        }
    }

    /// Starts finishing the response without its client. Returns `None` if there are no waiters and
    /// the rest is too long, or if too many others are being finished.
    pub(super) fn begin_to_finish(&self) -> Option<Finishing> {
        if !self.has_waiters() && !self.is_short() {
            return None;
        }
        let finishing = Finishing {
            config: Arc::clone(&self.config),
        };
        let others = self.config.finishing.fetch_add(1, Ordering::Relaxed);
        // Dropping it decrements the count.
        (others < FINISHING_MAX).then_some(finishing)
    }

    /// Stores the response after its body has ended without error.
    pub(super) fn commit(mut self) {
        if self
            .expected_bytes
            .is_some_and(|expected| expected != self.bytes)
        {
            return self.abandon(CacheReason::Incomplete);
        }
        if !self.take_up() {
            return self.abandon(CacheReason::Busy);
        }
        let Some(turn) = self.turn.take() else {
            return;
        };
        let config = Arc::clone(&self.config);
        let packer = self.packer.filter(|packer| self.bytes >= packer.min_bytes);
        let done = Done {
            lead: self.lead.take(),
            lease: self.lease.take(),
            record: self.record.take(),
            replaced: mem::take(&mut self.replaced),
            turn,
            put: self.put(packer.is_some()),
            config: Arc::clone(&config),
        };
        let relay = self.relay.take();
        let relay = relay.map(|relay| (relay, done.put.entry.body.clone()));
        match packer {
            // Compression is slow, and no request waits for it: the client already has the
            // response.
            Some(packer) if config.can_spawn() => config.spawn(Box::pin(async move {
                if let Some(rest) = done.packed(packer).keep() {
                    rest.await;
                }
            })),
            Some(packer) => drop(done.packed(packer).keep()),
            None => {
                if let Some(rest) = done.keep() {
                    config.spawn(rest);
                }
            }
        }
        // If the store is in memory, a client that has read the whole body finds it stored.
        if let Some((relay, body)) = relay {
            relay.complete(body);
        }
    }

    /// Abandons the fill: the response is not storable.
    pub(super) fn abandon(mut self, reason: CacheReason) {
        amend(self.record.take(), reason);
        if self.turn.as_ref().is_some_and(FillTurn::refuse) {
            purge_url(&self.config, &self.head.key);
        }
        // A response that exceeded the budget may fit the next time.
        if reason != CacheReason::Busy {
            let (url, now) = (self.head.key.uri(), self.config.clock.coarse());
            let storable = &self.config.storable;
            storable.set(url, self.route.as_ref(), Storable::No, now);
        }
        self.end(Landing::NotStored);
        if let Some(relay) = self.relay.take() {
            self.pass_on(&relay, reason);
        }
    }

    /// Transfers the retained pieces to the readers. The response continues without being stored.
    fn pass_on(&mut self, relay: &Relay, reason: CacheReason) {
        if reason == CacheReason::Incomplete {
            return relay.interrupt();
        }
        self.take_up();
        self.bytes = 0;
        relay.pass_on(mem::take(&mut self.chunks), &self.config.filling);
    }

    /// Ends the flight without a stored response, after the invalidation of the entries that this
    /// one replaces.
    pub(super) fn end(&mut self, landing: Landing) {
        let landed = Landed {
            replaced: mem::take(&mut self.replaced),
            lead: self.lead.take(),
            lease: self.lease.take(),
            record: None,
        };
        landed.end(&self.config, landing);
    }
}

/// The maximum number of concurrent responses that are finished without their clients.
const FINISHING_MAX: usize = 64;

/// Counts a response that is being finished without its client.
pub(super) struct Finishing {
    config: Arc<Config>,
}

impl Finishing {
    pub(crate) fn config(&self) -> &Arc<Config> {
        &self.config
    }
}

impl Drop for Finishing {
    fn drop(&mut self) {
        self.config.finishing.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for ResponseFill {
    fn drop(&mut self) {
        // Neither committed nor abandoned: its body was cut off, or was not read to its end.
        amend(self.record.take(), CacheReason::Incomplete);
        self.end(Landing::Abandoned);
        self.take_up();
        self.config.filling.give_back(self.bytes);
    }
}
