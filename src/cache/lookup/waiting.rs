//! The waits of a request for other requests and instances.

use std::ops::ControlFlow::Break;

use http::{HeaderMap, Request, StatusCode};

use super::{
    facts::{PartitionKind, Wanted},
    look::{LedFlight, LookupRole},
    search::Search,
    step::{Joining, LookupOutcome, LookupResponse, LookupTransition, LookupWait, RelayedResponse},
};
use crate::{
    cache::{
        entry::entry::fits,
        fill::relay::Relay,
        flight::{
            lease::{self, Move},
            single_flight::{Boarding, Landing},
            storable::Storable,
        },
        http::{cache_status::Forward, preconditions, vary::Selection},
        policy::policy::CachePolicy,
        store::Lease,
    },
    core::{error::StoreError, framework, store_api::store_key::LongStoreKey},
};

impl Search<'_> {
    /// Becomes the leader of a flight, or waits for it.
    pub(super) fn board<B: 'static>(&mut self, request: &mut Request<B>) -> LookupTransition {
        if self.look.leads.is_some() {
            return self.lease(request);
        }
        let Some((partition, flight)) = self.flight_key(request) else {
            return Break(LookupOutcome::Call);
        };
        let (config, look) = (self.config, &mut *self.look);
        let can_repeat = config.empty_bodies.can_make::<B>();
        match config.flights.board(&flight) {
            // No other request could use a response that is for this client alone.
            Boarding::Lead(_)
                if look.wanted() != Wanted::Whole && !can_repeat && !look.can_validate() =>
            {
                look.role = LookupRole::Alone;
                Break(LookupOutcome::Call)
            }
            Boarding::Alone => Break(LookupOutcome::Call),
            Boarding::Wait(wait) => match look.may_wait_for(config.max_wait) {
                Some(left) => Break(LookupOutcome::Wait(LookupWait::Flight(
                    wait,
                    config.sleep(left),
                ))),
                None => Break(LookupOutcome::Call),
            },
            Boarding::Lead(lead) => {
                look.leads = Some(LedFlight { lead, partition });
                if look.round.landed != config.flights.landed() {
                    return self.look_again(request);
                }
                let is_part = look.wanted() == Wanted::Range
                    && !look.can_validate()
                    && !config.rules.cache_partial_content;
                match look.wanted().is_head() || is_part {
                    true => Break(LookupOutcome::Wait(LookupWait::Turn { has_passed: false })),
                    false => self.lease(request),
                }
            }
        }
    }

    /// Returns the partition in which the response would be stored, and the key of its flight.
    /// Returns `None` if the request does not wait for other requests.
    fn flight_key<B: 'static>(
        &mut self,
        request: &Request<B>,
    ) -> Option<(PartitionKind, LongStoreKey)> {
        let (config, look) = (self.config, &mut *self.look);
        let may_wait = match look.role {
            LookupRole::Open => true,
            // The response for which it has waited is another variant, or belongs to another
            // caller.
            LookupRole::Collapsed => {
                look.round.forward == Forward::VaryMiss || look.has_waited_for_other()
            }
            LookupRole::Filled(_) | LookupRole::Alone | LookupRole::Refreshes => false,
        };
        if !may_wait || look.facts.asks.no_store || look.failure().is_some() {
            return None;
        }
        let route = framework::matched_path(request.extensions());
        look.route = route.map(|route| config.keys.route(route));
        let options = look.facts.policy.as_ref().map(CachePolicy::options);
        let known = || {
            let now = look.round.asked_at;
            config
                .storable
                .get(look.first_key().uri(), look.route.as_ref(), now)
        };
        let known = match options.and_then(|options| options.collapse) {
            Some(true) => None,
            Some(false) => Some(Storable::No),
            None if look.has_waited_for_other() => Some(Storable::Own),
            None => known(),
        };
        let keys = &look.facts.keys;
        let partition = match known {
            Some(Storable::No) => {
                look.role = LookupRole::Alone;
                return None;
            }
            Some(Storable::Own) => PartitionKind::Own,
            Some(Storable::Shared) | None => keys.first_partition(),
        };
        let key = keys.get(partition);
        // A partial response is of no use to a request for another range.
        let flight = match look.wanted() == Wanted::Range && config.rules.cache_partial_content {
            true => config.keys.part(key, request.headers()),
            false => match look.stale() {
                Some(stale) if stale.key == *key => stale.flight(config),
                Some(_) | None => *key.full(),
            },
        };
        Some((partition, flight))
    }

    /// Continues after the turn of the executor in which other requests can start to wait.
    pub(crate) fn turned<B: 'static>(&mut self, request: &mut Request<B>) -> LookupTransition {
        match self.look.round.landed == self.config.flights.landed() {
            true => self.lease(request),
            false => self.look_again(request),
        }
    }

    /// Acquires the lease, so that only this instance calls the handler.
    pub(super) fn lease<B>(&mut self, request: &Request<B>) -> LookupTransition {
        let look = &*self.look;
        match &look.leads {
            Some(leads) if look.leasing.is_open() => {
                let key = *look.facts.keys.get(leads.partition);
                let leased = lease::ask(self.config, key);
                LookupOutcome::lease(
                    self.config
                        .watch
                        .over(leased, || self.record(request).cloned()),
                )
            }
            Some(_) | None => Break(LookupOutcome::Call),
        }
    }

    /// Handles the store's reply to a lease request.
    pub(crate) fn leased<B: 'static>(
        &mut self,
        reply: Result<Lease, StoreError>,
        request: &mut Request<B>,
    ) -> LookupTransition {
        let Some(leads) = &self.look.leads else {
            return Break(LookupOutcome::Call);
        };
        let key = *self.look.facts.keys.get(leads.partition);
        match self.look.leasing.take(reply, self.config, key) {
            Move::Make => Break(LookupOutcome::Call),
            Move::Look => self.look_again(request),
            Move::Pause(pause) => {
                self.look.role = LookupRole::Collapsed;
                self.look.waited.begin(self.look.round.asked_at);
                Break(LookupOutcome::Wait(LookupWait::Pause(pause)))
            }
        }
    }

    /// Continues after a wait for another instance.
    pub(super) fn paused<B: 'static>(&mut self, request: &mut Request<B>) -> LookupTransition {
        self.end_wait();
        self.look_again(request)
    }

    /// Continues after a flight has landed, or after the wait timed out.
    pub(crate) fn landed<B: 'static>(
        &mut self,
        landing: Option<Landing>,
        request: &mut Request<B>,
    ) -> LookupTransition {
        self.end_wait();
        match landing {
            Some(landing) => self.look.role = self.look.role.after(landing),
            None => self.give_up(),
        }
        self.look_again(request)
    }

    /// Handles the head of a response that another request is filling. This request streams it if
    /// it could use the stored response.
    pub(super) fn head_came<B: 'static>(
        &mut self,
        joining: Box<Joining>,
        request: &mut Request<B>,
    ) -> LookupTransition {
        let relay = &joining.relay;
        self.look.round.asked_at = self.config.clock.coarse();
        if !self.may_stream(relay, request.headers()) {
            return self.wait_on(*joining, request);
        }
        let (config, head) = (self.config, &relay.head);
        let purged = config.store.is_purged_since(&relay.key, head, relay.fence);
        let purged = config.deadline.bound(purged);
        let purged = config.watch.over(purged, || self.record(request).cloned());
        LookupOutcome::check(purged, joining)
    }

    /// Streams a response that is still being stored, unless it was purged meanwhile.
    pub(crate) fn checked<B: 'static>(
        &mut self,
        purged: Result<bool, StoreError>,
        joining: Joining,
        request: &mut Request<B>,
    ) -> LookupTransition {
        let reader = match purged {
            Ok(false) => joining.relay.reader(),
            Ok(true) | Err(_) => None,
        };
        let Some(reader) = reader else {
            return self.wait_on(joining, request);
        };
        self.end_wait();
        let Joining { relay, wait, .. } = joining;
        Break(LookupOutcome::Response(LookupResponse::Streamed(Box::new(
            RelayedResponse {
                relay,
                reader,
                wait,
            },
        ))))
    }

    /// Waits until the response is stored, unless the flight is already known to be slow.
    fn wait_on<B: 'static>(
        &mut self,
        joining: Joining,
        request: &mut Request<B>,
    ) -> LookupTransition {
        match joining.wait.is_slow() {
            true => self.landed(Some(Landing::NotStored), request),
            false => Break(LookupOutcome::Wait(LookupWait::Flight(
                joining.wait,
                joining.deadline,
            ))),
        }
    }

    /// Returns `true` if the request could be served with the response once it is stored. A range
    /// is cut from the stored response.
    fn may_stream(&mut self, relay: &Relay, asked: &HeaderMap) -> bool {
        let (config, look) = (self.config, &mut *self.look);
        let Some(partition) = look.facts.keys.partition_of(&relay.key) else {
            return false;
        };
        look.round.partition = partition;
        let head = &relay.head;
        let is_unchanged =
            head.status == StatusCode::OK && preconditions::is_not_modified(asked, &head.headers);
        !look.refreshes()
            && !look.facts.precondition
            && (look.wanted() != Wanted::Range || is_unchanged)
            && look.is_meant_for_caller(head)
            && fits(&Selection::new(asked, config.keys.variants()), head)
            && look.is_fresh(head)
            && look.is_fresh_enough(head)
            && !relay.turn.is_overtaken()
    }

    /// Ends a wait for other requests.
    fn end_wait(&mut self) {
        self.look.waited.end(self.config.clock.coarse());
    }

    /// Stops waiting for a slow flight.
    pub(super) fn give_up(&mut self) {
        let (config, look) = (self.config, &mut *self.look);
        look.role = LookupRole::Alone;
        let now = config.clock.coarse();
        let (url, route) = (look.first_key().uri(), look.route.as_ref());
        config.storable.set(url, route, Storable::No, now);
        // A stale response is also served when the origin hangs.
        if let Some(stale) = look.stale() {
            config.backoffs.failed(stale.key.full(), now);
        }
    }
}
