//! The lookup of a request, up to a response or a call to the handler.

use std::{
    ops::ControlFlow::{Break, Continue},
    sync::Arc,
};

use http::Request;

use super::{
    entry_use::EntryUse,
    look::{Finding, LedFlight, Look, LookupRole, Stale},
    reason::CacheReason,
    step::{LookupEvent, LookupOutcome, LookupResponse, LookupTransition, LookupWait},
};
use crate::{
    cache::{
        config::Config,
        http::{cache_status::Forward, revalidation, vary::Selection},
        store::{Found, Lookup},
    },
    core::{
        error::StoreError,
        record::RecordHandle,
        store_api::store_future::{ReadyOrPending, StoreFuture},
    },
};

/// A lookup in progress.
pub(crate) struct Search<'a> {
    pub(crate) config: &'a Arc<Config>,
    pub(crate) look: &'a mut Look,
}

impl Search<'_> {
    /// Continues with an event, or with the first lookup if there is none.
    #[inline]
    pub(crate) fn go_on<B: 'static>(
        &mut self,
        event: Option<LookupEvent>,
        request: &mut Request<B>,
    ) -> LookupOutcome {
        let mut transition = match event {
            None => self.ask(request),
            Some(event) => Continue(event),
        };
        loop {
            transition = match transition {
                Break(next) => return next,
                Continue(event) => self.advance(event, request),
            };
        }
    }

    #[inline(always)]
    fn advance<B: 'static>(
        &mut self,
        event: LookupEvent,
        request: &mut Request<B>,
    ) -> LookupTransition {
        match event {
            LookupEvent::Lookup(reply) => self.learn(reply, request),
            LookupEvent::Landing(landing) => self.landed(landing, request),
            LookupEvent::Relay(joining) => self.head_came(joining, request),
            LookupEvent::Checked(purged, joining) => self.checked(purged, *joining, request),
            LookupEvent::Turn => self.turned(request),
            LookupEvent::Lease(reply) => self.leased(reply, request),
            LookupEvent::Paused => self.paused(request),
        }
    }

    /// Looks up the current key.
    #[inline]
    pub(super) fn ask<B>(&self, request: &Request<B>) -> LookupTransition {
        let selection = Selection::new(request.headers(), self.config.keys.variants());
        let selection = match &self.look.round.hint {
            Some(hint) => selection.with_hint(hint),
            None => selection,
        };
        match self.config.store.get(self.look.key(), &selection) {
            StoreFuture::Ready(Some(Ok(lookup))) => {
                self.config.watch.answered_at_once();
                Continue(LookupEvent::Lookup(Ok(lookup)))
            }
            reply => self.await_lookup(reply, request),
        }
    }

    /// Handles a reply of the store that is pending or an error.
    fn await_lookup<B>(
        &self,
        reply: StoreFuture<Lookup>,
        request: &Request<B>,
    ) -> LookupTransition {
        let reply = self.config.deadline.bound(reply);
        let record = || self.record(request).cloned();
        match self.config.watch.over(reply, record).into_ready() {
            ReadyOrPending::Ready(lookup) => Continue(LookupEvent::Lookup(lookup)),
            ReadyOrPending::Pending(pending) => {
                Break(LookupOutcome::Wait(LookupWait::Store(pending)))
            }
        }
    }

    /// Returns the record of the request. Background refreshes have none.
    pub(super) fn record<'r, B>(&self, request: &'r Request<B>) -> Option<&'r RecordHandle> {
        let record = RecordHandle::from_extensions(request.extensions());
        record.filter(|_| !self.look.refreshes())
    }

    /// Handles the store's reply to a lookup.
    #[inline]
    fn learn<B: 'static>(
        &mut self,
        reply: Result<Lookup, StoreError>,
        request: &mut Request<B>,
    ) -> LookupTransition {
        let (config, look) = (self.config, &mut *self.look);
        let Lookup { fence, found } = match reply {
            Ok(lookup) => lookup,
            Err(error) => {
                look.round.finding = Finding::Failed(error.kind());
                return Break(LookupOutcome::Call);
            }
        };
        look.round.note_fence(fence);
        match found {
            Found::Varies(spec) if look.round.hint.is_none() => {
                look.round.hint = Some(spec);
                return self.ask(request);
            }
            Found::Nothing => {}
            Found::NoVariant | Found::Varies(_) => look.round.forward = Forward::VaryMiss,
            Found::Entry {
                entry,
                stamp,
                expired,
            } => match look.entry_use(&entry, expired, config, request.headers()) {
                EntryUse::Serve(plain, reason) => {
                    let fresh = LookupResponse::Fresh(entry, plain, reason);
                    return Break(LookupOutcome::Response(fresh));
                }
                EntryUse::OtherVariant => look.round.forward = Forward::VaryMiss,
                EntryUse::Unusable => {}
                EntryUse::OtherPart => look.take_part(entry, stamp, fence, expired),
                EntryUse::Validate(plain, forward) => {
                    look.round.forward = forward;
                    let found = look.found(entry, stamp, fence, expired);
                    look.take_stale(found, plain);
                    return self.go_past(request);
                }
            },
        }
        if look.next_key() {
            return self.ask(request);
        }
        self.go_past(request)
    }

    /// Looks the request up again.
    pub(super) fn look_again<B>(&mut self, request: &Request<B>) -> LookupTransition {
        self.look.start_over(self.config);
        self.ask(request)
    }

    /// Decides the next step of a request without a usable stored response.
    fn go_past<B: 'static>(&mut self, request: &mut Request<B>) -> LookupTransition {
        let (config, look) = (self.config, &*self.look);
        if look.facts.asks.only_if_cached && look.facts.precondition {
            return Break(LookupOutcome::Response(self.not_cached(request)));
        }
        if look.facts.precondition {
            return Break(LookupOutcome::Call);
        }
        if let Some(stale) = look.stale() {
            if look.accepts_stale(stale) {
                let response = self.stale(&stale.entry, request, None);
                return Break(LookupOutcome::Response(LookupResponse::Made(response)));
            }
            if look.facts.asks.only_if_cached {
                return Break(LookupOutcome::Response(self.not_cached(request)));
            }
            let shows =
                look.shows_while_validating(stale) && !look.refreshes() && config.can_spawn();
            if !look.refreshes()
                && config.backoffs.holds(stale.key.full(), look.round.asked_at)
                && (shows || look.may_stand_in(config, stale))
            {
                let response = self.stale(&stale.entry, request, Some(CacheReason::Backoff));
                return Break(LookupOutcome::Response(LookupResponse::Made(response)));
            }
            if shows {
                let stale = stale.clone();
                return self.serve_and_refresh(&stale, request);
            }
        } else if look.facts.asks.only_if_cached {
            return Break(LookupOutcome::Response(self.not_cached(request)));
        }
        self.board(request)
    }

    /// Serves a stale response, and refreshes it in the background unless another request already
    /// does.
    fn serve_and_refresh<B>(
        &mut self,
        stale: &Stale,
        request: &mut Request<B>,
    ) -> LookupTransition {
        let response = self.stale(&stale.entry, request, None);
        let (config, look) = (self.config, &mut *self.look);
        let flight = stale.flight(config);
        let led = look.take_lead().filter(|lead| lead.is_for(&flight));
        let Some(lead) = led.or_else(|| config.flights.lead(&flight)) else {
            return Break(LookupOutcome::Response(LookupResponse::Made(response)));
        };
        // A servable stale response ends its round: its partition is the one of the last lookup.
        let partition = look.round.partition;
        look.leads = Some(LedFlight { lead, partition });
        look.role = LookupRole::Refreshes;
        *request.method_mut() = http::Method::GET;
        revalidation::want_all(request);
        let leased = look.leasing.ask(config, stale.key);
        Break(LookupOutcome::ServeAndRefresh(response, leased))
    }
}
