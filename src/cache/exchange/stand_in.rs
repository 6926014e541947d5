//! Serving stale responses when the origin fails.

use bytes::Bytes;
use http::{Response, StatusCode};

use super::{
    exchange::{Course, Exchange},
    forwarded_request::ForwardedRequest,
};
use crate::{
    cache::{
        config::Config,
        entry::entry::StoredResponse,
        fill::replaced::Replaced,
        flight::{single_flight::Landing, storable::Storable},
        http::{cache_status::Report, vary::Selection},
        lookup::look::{Look, Stale},
        store::{Found, Lookup},
    },
    core::{
        audit::AuditEvent,
        error::{StoreError, StoreErrorKind},
        record::CacheSource,
        store_api::store_future::StoreFuture,
    },
};

/// A failed request for which a stale response can be served.
pub(crate) struct StandIn {
    pub(super) exchange: Exchange,
    pub(super) asked: Box<ForwardedRequest>,
    /// The status of the origin's response, if it returned one.
    pub(super) status: Option<StatusCode>,
}

impl StandIn {
    /// Looks the stale response up again, to check that it is still stored.
    pub(crate) fn look_up(&self) -> StoreFuture<Lookup> {
        let config = &self.exchange.config;
        let Some(stale) = self.asked.look.stale() else {
            return StoreFuture::failed(StoreErrorKind::NotFound);
        };
        let fields = self.asked.fields.to_map();
        let selection = Selection::new(&fields, config.keys.variants());
        let selection = selection.with_hint(&stale.entry.vary);
        let found = config.store.get(&stale.key, &selection);
        config.deadline.bound(found)
    }

    /// Returns the stale response, unless it was replaced or purged during the call of the handler.
    /// If the store fails, the result of its first lookup counts.
    pub(crate) fn conclude(self, found: Result<Lookup, StoreError>) -> Option<Response<Bytes>> {
        let mut stale = self.asked.look.stale()?.clone();
        match found.map(|lookup| lookup.found) {
            Ok(Found::Entry { stamp, expired, .. }) if stamp == stale.stamp => {
                stale.expired = expired;
            }
            Ok(Found::Entry { .. } | Found::Nothing | Found::NoVariant | Found::Varies(_)) => {
                return None;
            }
            Err(_) => {}
        }
        let (exchange, asked) = (&self.exchange, &self.asked);
        let may_stand_in = asked.look.may_stand_in(&exchange.config, &stale);
        may_stand_in.then(|| exchange.stale(asked, &stale.entry, self.status))
    }
}

impl Exchange {
    /// Handles an error of the handler. Returns the request, if a stale response can be served.
    pub(crate) fn rescue(mut self) -> Option<StandIn> {
        let Course::Look(mut asked) = self.take_course() else {
            return None;
        };
        let lead = match asked.unconfirmed {
            Some(_) => asked.look.take_lead(),
            None => None,
        };
        self.fail(&mut asked.look, "error");
        let stale = asked.look.stale()?;
        if asked.unconfirmed.is_some() {
            // A `304` named another version, which the origin cannot send now.
            Replaced::new(stale).invalidate_before(&self.config, || drop(lead));
            return None;
        }
        let may_stand_in = asked.look.may_stand_in(&self.config, stale);
        may_stand_in.then_some(StandIn {
            exchange: self,
            asked,
            status: None,
        })
    }

    /// Returns the stale response that the lookup found. `status` is that of the origin's response,
    /// if it returned one.
    pub(super) fn stale(
        &self,
        asked: &ForwardedRequest,
        entry: &StoredResponse,
        status: Option<StatusCode>,
    ) -> Response<Bytes> {
        let (look, now) = (&asked.look, self.config.clock.now());
        let mut report = Report::hit(CacheSource::Stale, entry.freshness.ttl_secs(now));
        if status.is_some() {
            report.forward = Some(look.round.forward);
            report.forward_status = status;
        }
        let (context, plain) = (self.serve_context(Some(look)), look.stale_plain());
        context.stored(entry, plain, look, &asked.fields.to_map(), now, report)
    }

    /// Records a failure of the origin. If there is a stale response, the backoff of the key
    /// starts. Otherwise one of the waiters calls the handler once more. If that fails too, all
    /// waiters are released.
    pub(super) fn fail(&self, look: &mut Look, cause: &'static str) {
        let now = self.config.clock.coarse();
        let is_last_try = cause != "error" || look.waited.time().is_some();
        let landing = match look.stale() {
            Some(stale) => {
                self.config.backoffs.failed(stale.key.full(), now);
                Landing::Failed
            }
            None if is_last_try => {
                self.remember(look, Storable::No, now);
                Landing::Failed
            }
            None => Landing::Abandoned,
        };
        if look.refreshes() {
            self.config.audit.emit(|| AuditEvent::CacheRefreshFailed {
                cause: cause.into(),
            });
        }
        if let Some(lead) = look.take_lead() {
            lead.land(landing);
        }
    }

    pub(super) fn note_failure(&self, look: &mut Look, status: StatusCode) {
        if stands_in_for(status) {
            self.fail(look, "status");
        }
    }

    /// Records the timeout of a background refresh.
    pub(crate) fn refresh_timed_out(config: &Config, stale: &Stale) {
        let now = config.clock.coarse();
        config.backoffs.failed(stale.key.full(), now);
        config.audit.emit(|| AuditEvent::CacheRefreshFailed {
            cause: "timeout".into(),
        });
    }

    /// Returns the stale response that a background refresh is for.
    pub(crate) fn refreshed(&self) -> Option<Stale> {
        match &self.course {
            Course::Look(asked) => asked.look.stale().cloned(),
            Course::Pass(..) | Course::Change(_) => None,
        }
    }
}

/// Returns `true` if a status signals a failure of the origin (RFC 5861 section 4).
pub(super) fn stands_in_for(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}
