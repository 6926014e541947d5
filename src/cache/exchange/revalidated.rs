//! A stored response that the origin has confirmed.

use std::sync::Arc;

use http::{Response, header};
use http_body::Body;

use super::{
    conclusion::Conclusion,
    exchange::{Exchange, wanted},
    forwarded_request::ForwardedRequest,
    settling::land_after,
};
use crate::{
    cache::{
        entry::entry::{StoredResponse, compact},
        fill::{
            body::CacheBody,
            order::{Coverage, StoreChange},
            replaced::Replaced,
        },
        flight::{single_flight::Landing, storable::Storable},
        http::{
            cache_status::Report,
            revalidation,
            storability::{ResponseFields, StorageDecision, judge},
        },
        lookup::{
            look::{Look, Stale},
            reason::CacheReason,
        },
        store::Touch,
    },
    core::{
        record::CacheSource,
        store_api::store_future::{ReadyOrPending, StoreFuture},
    },
};

impl Exchange {
    /// Serves the stored response, which the origin has confirmed by a `304` or by the response to
    /// a HEAD.
    pub(super) fn revalidated<B: Body>(
        self,
        mut asked: Box<ForwardedRequest>,
        stale: &Stale,
        confirmation: &Response<B>,
    ) -> Conclusion<B> {
        let look = &mut asked.look;
        let fresh = confirmation.headers();
        let mut headers = revalidation::merged(&stale.entry.headers, fresh);
        self.take_tags_off(&mut headers);
        // The age of a confirmed response is that of the confirmation, not that of the stored
        // response.
        let mut dated = headers.clone();
        if !fresh.contains_key(header::DATE) {
            dated.remove(header::DATE);
        }
        match fresh.get(header::AGE) {
            Some(age) => dated.insert(header::AGE, age.clone()),
            None => dated.remove(header::AGE),
        };
        let times = self.times(look);
        let (rules, status) = (&self.config.rules, stale.entry.status);
        let wanted = wanted(look, confirmation);
        let seen = ResponseFields::of(&dated, rules);
        let verdict = judge(rules, &look.facts.caller, status, &seen, &wanted, &times);
        let verdict = verdict.and_then(|verdict| stays(look, stale, verdict));
        let mut entry = StoredResponse {
            headers,
            ..(*stale.entry).clone()
        };
        let write = match &verdict {
            Ok(verdict) => {
                entry.headers = compact(&self.kept_headers(&dated, verdict, &times));
                self.confirm(look, stale, &mut entry, verdict, confirmation)
            }
            Err(reason) => Some(self.no_longer_shared(stale, *reason)),
        };
        let landing = match verdict.is_ok() {
            true => Landing::Stored,
            false => Landing::NotStored,
        };
        let stored = verdict.is_ok() && write.is_some();
        if verdict.is_err() {
            self.remember(look, Storable::No, times.received_at);
        }
        let lead = look.take_lead();
        let now = self.config.clock.now();
        let report = Report {
            forward: Some(look.round.forward),
            forward_status: Some(confirmation.status()),
            stored,
            ..Report::hit(CacheSource::Revalidated, entry.freshness.ttl_secs(now))
        };
        let report = report.reason(verdict.err());
        let (look, fields) = (&asked.look, asked.fields.to_map());
        let (context, plain) = (self.serve_context(Some(look)), look.stale_plain());
        let response = context.stored(&entry, plain, look, &fields, now, report);
        let settling = land_after(write, lead, landing);
        Conclusion::Send(response.map(CacheBody::stored), settling)
    }

    /// Stores the changes that a confirmation has made to the head of a stored response.
    fn confirm<B>(
        &self,
        look: &Look,
        stale: &Stale,
        entry: &mut StoredResponse,
        verdict: &StorageDecision,
        confirmation: &Response<B>,
    ) -> Option<StoreFuture<()>> {
        entry.freshness = self.config.jitter.shorten(verdict.freshness, &stale.key);
        entry.says_shared = verdict.says_shared;
        let tags = self.tags(confirmation);
        if !tags.is_empty() {
            entry.tags = tags;
        }
        let fence = look.round.fence?;
        let other_key = look.facts.keys.other(&stale.key);
        let change = self.config.order.confirm(&Coverage {
            key: *stale.key.full(),
            other_key: other_key.map(|key| *key.full()),
            says_shared: entry.says_shared,
            vary: entry.vary.clone(),
            variant: entry.variant,
        });
        let touch = Touch {
            key: stale.key,
            entry: Arc::new(entry.clone()),
            stamp: stale.stamp,
            fence,
            retain: self.retain(verdict),
        };
        Some(self.touch(touch, change))
    }

    /// Ends the use of a stored response for other clients: it is confirmed for this one alone.
    fn no_longer_shared(&self, stale: &Stale, reason: CacheReason) -> StoreFuture<()> {
        let replaced = Replaced::new(stale);
        self.settle(match reason == CacheReason::NoStore {
            true => replaced.invalidate(&self.config),
            false => replaced.demote(&self.config),
        })
    }

    fn touch(&self, touch: Touch, change: StoreChange) -> StoreFuture<()> {
        match self.config.store.touch(touch).into_ready() {
            // An entry that was replaced meanwhile stays as it is.
            ReadyOrPending::Ready(touched) => self.settle(touched.map(drop).into()),
            ReadyOrPending::Pending(pending) => self.settle(StoreFuture::pending(async move {
                let touched = pending.await;
                drop(change);
                touched.map(drop)
            })),
        }
    }
}

/// Returns the decision for a validated response, if the stored entry is still valid in its place:
/// the same callers can use it, and the same fields select it.
fn stays(
    look: &Look,
    stale: &Stale,
    verdict: StorageDecision,
) -> Result<StorageDecision, CacheReason> {
    if look.facts.keys.shared() == Some(&stale.key) && !verdict.shared {
        Err(CacheReason::Credential)
    } else if verdict.vary != stale.entry.vary {
        Err(CacheReason::VaryChanged)
    } else {
        Ok(verdict)
    }
}
