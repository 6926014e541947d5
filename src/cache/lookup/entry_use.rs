//! The use of a stored response for a request.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::{
    facts::{LookupKeys, PartitionKind, Wanted},
    look::{Finding, Look, LookupRole, Stale},
    reason::CacheReason,
};
use crate::cache::{
    config::Config,
    entry::{
        entry::{StoredResponse, fits},
        packing,
    },
    http::{
        cache_status::Forward, content_range, revalidation, storability::RequestCaller,
        vary::Selection,
    },
    store::{Fence, Stamp},
};

/// The use of a stored response for a request.
pub(super) enum EntryUse {
    /// It is served, with the decompressed body if the client does not accept the stored encoding.
    /// A reason is given if the client requested a newer one.
    Serve(Option<Bytes>, Option<CacheReason>),
    /// It is stale, or the client requests a newer one. The body is as above.
    Validate(Option<Bytes>, Forward),
    /// It is partial content that does not cover the requested range.
    OtherPart,
    /// It is another variant.
    OtherVariant,
    /// It belongs to another caller, or cannot be decompressed.
    Unusable,
}

/// A body cannot be decompressed.
struct Unreadable;

impl Look {
    /// Returns the use of a stored response for this request.
    #[inline]
    pub(super) fn entry_use(
        &mut self,
        entry: &StoredResponse,
        expired: bool,
        config: &Config,
        asked: &HeaderMap,
    ) -> EntryUse {
        let selection = Selection::new(asked, config.keys.variants());
        let is_own = matches!(self.role, LookupRole::Filled(_));
        let is_fresh = !expired && (is_own || self.is_fresh(entry));
        if !fits(&selection, entry) {
            return EntryUse::OtherVariant;
        }
        if !self.is_meant_for_caller(entry) {
            return EntryUse::Unusable;
        }
        let Ok(plain) = self.plain(entry, config, asked) else {
            return EntryUse::Unusable;
        };
        if entry.status == StatusCode::PARTIAL_CONTENT && !self.is_held(entry, asked) {
            return EntryUse::OtherPart;
        }
        if !is_fresh || self.facts.precondition {
            let forward = match is_fresh {
                true => Forward::Request,
                false => Forward::Stale,
            };
            return EntryUse::Validate(plain, forward);
        }
        if self.is_fresh_enough(entry) {
            EntryUse::Serve(plain, None)
        } else if self.may_reload(config) {
            EntryUse::Validate(plain, Forward::Request)
        } else {
            EntryUse::Serve(plain, Some(CacheReason::Reloaded))
        }
    }

    /// Records a stored partial response that does not cover the requested range. It can be
    /// combined with the next part of the response.
    pub(super) fn take_part(
        &mut self,
        entry: Arc<StoredResponse>,
        stamp: Stamp,
        fence: Fence,
        expired: bool,
    ) {
        self.round.forward = Forward::Partial;
        let found = self.found(entry, stamp, fence, expired);
        self.round.part = Some(Box::new(found));
    }

    /// Records a stored response that cannot be served without validation.
    pub(super) fn take_stale(&mut self, stale: Stale, plain: Option<Bytes>) {
        match stale.entry.status == StatusCode::PARTIAL_CONTENT {
            true => self.round.part = Some(Box::new(stale)),
            false => self.round.finding = Finding::Stale(stale, plain),
        }
    }

    pub(super) fn found(
        &self,
        entry: Arc<StoredResponse>,
        stamp: Stamp,
        fence: Fence,
        expired: bool,
    ) -> Stale {
        Stale {
            key: *self.key(),
            entry,
            stamp,
            fence,
            expired,
        }
    }

    /// Returns `true` if an identified caller has waited for a shared response that it cannot use.
    pub(super) fn has_waited_for_other(&self) -> bool {
        self.role == LookupRole::Collapsed
            && matches!(self.facts.keys, LookupKeys::Both { .. })
            && self.stale().is_none()
    }

    pub(super) fn is_meant_for_caller(&self, entry: &StoredResponse) -> bool {
        self.round.partition == PartitionKind::Own
            || entry.says_shared
            || self.facts.caller == RequestCaller::Anonymous
    }

    /// Returns `true` if the client can reload a fresh response. A request with `only-if-cached`
    /// does not count as a reload.
    fn may_reload(&self, config: &Config) -> bool {
        let now = self.round.asked_at;
        self.facts.asks.only_if_cached || config.reloads.take(self.key().full(), now)
    }

    /// Returns the decompressed body, if the client does not accept the stored encoding. Returns an
    /// error if it cannot be decompressed.
    #[inline]
    fn plain(
        &self,
        entry: &StoredResponse,
        config: &Config,
        asked: &HeaderMap,
    ) -> Result<Option<Bytes>, Unreadable> {
        match entry.packed {
            Some(plain_bytes) if !packing::takes_packed(asked) => {
                self.unpacked(entry, plain_bytes, config).map(Some)
            }
            Some(_) | None => Ok(None),
        }
    }

    fn unpacked(
        &self,
        entry: &StoredResponse,
        plain_bytes: u32,
        config: &Config,
    ) -> Result<Bytes, Unreadable> {
        if self.wanted().is_head() {
            return Ok(Bytes::new());
        }
        let plain_bytes = usize::try_from(plain_bytes).ok();
        let unpacked = config.rules.packer.zip(plain_bytes);
        let unpacked = unpacked.and_then(|(packer, len)| (packer.unpack)(&entry.body, len));
        unpacked.ok_or(Unreadable)
    }

    /// Returns `true` if a stored partial response covers the requested range.
    fn is_held(&self, entry: &StoredResponse, asked: &HeaderMap) -> bool {
        self.wanted() == Wanted::Range && content_range::within(entry, asked).is_some()
    }

    pub(super) fn is_fresh(&self, entry: &StoredResponse) -> bool {
        let freshness = &entry.freshness;
        !freshness.always_validate && freshness.ttl_secs(self.round.asked_at) > 0
    }

    /// Returns `true` if a fresh response satisfies the directives of the request.
    pub(super) fn is_fresh_enough(&self, entry: &StoredResponse) -> bool {
        let age_secs = entry.freshness.age_secs(self.round.asked_at);
        let ttl_secs = entry.freshness.ttl_secs(self.round.asked_at);
        let asks = &self.facts.asks;
        if let LookupRole::Filled(_) = self.role {
            return true;
        }
        !asks.no_cache
            && asks.max_age_secs.is_none_or(|most| age_secs <= most)
            && asks
                .min_fresh_secs
                .is_none_or(|least| ttl_secs >= i64::from(least))
    }

    /// Returns `true` if the request accepts the stale response without validation (`max-stale`).
    pub(super) fn accepts_stale(&self, stale: &Stale) -> bool {
        let freshness = &stale.entry.freshness;
        let stale_secs = -freshness.ttl_secs(self.round.asked_at);
        !self.facts.asks.no_cache
            && !stale.expired
            && !freshness.never_stale
            && !freshness.always_validate
            && self
                .facts
                .asks
                .max_stale_secs
                .is_some_and(|most| stale_secs <= i64::from(most))
    }

    /// Returns `true` if a stale response can be served while it is revalidated (RFC 5861 section
    /// 3).
    pub(super) fn shows_while_validating(&self, stale: &Stale) -> bool {
        let freshness = &stale.entry.freshness;
        let stale_secs = -freshness.ttl_secs(self.round.asked_at);
        self.round.forward == Forward::Stale
            && !self.facts.asks.no_cache
            && !freshness.never_stale
            && !freshness.always_validate
            && freshness.while_revalidate_secs > 0
            && stale_secs <= i64::from(freshness.while_revalidate_secs)
    }

    /// Returns the remaining time for which the request can wait for other requests.
    pub(super) fn may_wait_for(&mut self, at_most: Duration) -> Option<Duration> {
        let now = self.round.asked_at;
        let left = at_most.saturating_sub(now - self.waited.begin(now));
        (!left.is_zero()).then_some(left)
    }

    /// Returns `true` if the stored response has a validator.
    pub(crate) fn can_validate(&self) -> bool {
        self.stale()
            .is_some_and(|stale| revalidation::has_validator(&stale.entry.headers))
    }

    /// Returns `true` if a stale response can be served when the origin fails (RFC 5861 section 4).
    pub(crate) fn may_stand_in(&self, config: &Config, stale: &Stale) -> bool {
        let freshness = &stale.entry.freshness;
        // A precondition is evaluated by the origin alone.
        if self.facts.precondition || freshness.never_stale || freshness.always_validate {
            return false;
        }
        let stale_secs = -freshness.ttl_secs(config.clock.now());
        if config.rules.stale_on_error || (stale_secs < 0 && !stale.expired) {
            return true;
        }
        let allowed = freshness
            .if_error_secs
            .max(self.facts.asks.stale_if_error_secs.unwrap_or(0));
        allowed > 0 && stale_secs <= i64::from(allowed)
    }
}
