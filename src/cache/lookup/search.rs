//! Looking a request up in the store, and what follows from what is found.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};

use super::{
    lease::{self, Move},
    plan::{Collapsing, Look, Stale},
    reason::Reason,
    shown::{Told, Whole},
    single_flight::{Boarding, Landing, Wait},
    storable::Storable,
};
use crate::{
    cache::{
        config::Config,
        entry::{
            entry::{StoredResponse, fits},
            key::CacheKey,
            packing,
        },
        fill::relay::{Relay, RelayReader},
        http::{
            cache_status::{Forward, Report},
            content_range, preconditions, revalidation,
            storability::Caller,
            vary::Selection,
        },
        policy::CachePolicy,
        store::{Found, Lease, Lookup},
    },
    core::{
        error::StoreError,
        framework,
        record::{CacheSource, RecordHandle},
        runtime::Task,
        store_api::{store_future::StoreFuture, store_key::LongStoreKey},
    },
};

/// A request on its way to a response: from the store, or past it.
pub(crate) struct Search<'a> {
    pub(crate) config: &'a Arc<Config>,
    pub(crate) look: &'a mut Look,
}

/// The next step of a request.
pub(crate) enum Step {
    /// Another look-up.
    Ask,
    /// A call of the handler.
    Call,
    /// A response from the store.
    Answer(Answer),
    /// A response from the store, and a call of the handler in the background to refresh it: at once,
    /// or if the store gives the lease.
    AnswerAndRefresh(Answer, Option<StoreFuture<Lease>>),
    /// A wait for another request of this process, for this long at most.
    Wait(Wait, Duration),
    /// A question to the store: whether a response that is still being stored was purged.
    Check(StoreFuture<bool>, Box<Joining>),
    /// The same wait as before, until the response is stored.
    WaitOn(Box<Joining>),
    /// A turn of the executor, in which other requests may come to wait for this one.
    Turn,
    /// A request for the lease.
    Lease(StoreFuture<Lease>),
    /// A wait for another process.
    Pause(Task),
}

/// A response for which the handler is not called.
pub(crate) enum Answer {
    /// A stored response, and why it is sent although the client asked for another one, if it did.
    Fresh(Arc<StoredResponse>, Option<Reason>),
    /// Any other one.
    Made(Box<Response<Bytes>>),
    /// A response that is still being stored.
    Streamed(Box<RelayedResponse>),
}

/// A request that waits for a response whose head has come.
pub(crate) struct Joining {
    pub(crate) relay: Arc<Relay>,
    pub(crate) wait: Wait,
    /// The end of the time for which it waits until the response is stored.
    pub(crate) deadline: Option<Task>,
}

/// A request that streams a response while that is being stored.
pub(crate) struct RelayedResponse {
    relay: Arc<Relay>,
    reader: RelayReader,
    wait: Wait,
}

/// A response as the client is sent it.
pub(crate) enum Shown {
    Whole(Whole),
    Made(Response<Bytes>),
    Streamed(Box<Response<(RelayReader, Wait)>>),
}

impl Search<'_> {
    /// Asks the store.
    #[inline]
    pub(crate) fn ask<B>(&self, request: &Request<B>) -> Option<StoreFuture<Lookup>> {
        let selection = Selection::new(request.headers(), self.config.keys.variants());
        let selection = match &self.look.hint {
            Some(hint) => selection.with_hint(hint),
            None => selection,
        };
        let answer = self.config.store.get(self.look.key()?, &selection);
        if let StoreFuture::Ready(Some(Ok(_))) = &answer {
            self.config.watch.answered_at_once();
            return Some(answer);
        }
        let answer = self.config.deadline.bound(answer);
        Some(
            self.config
                .watch
                .over(answer, || self.record(request).cloned()),
        )
    }

    /// Returns the record that the request bears. What is made beside it is none of its affairs.
    fn record<'r, B>(&self, request: &'r Request<B>) -> Option<&'r RecordHandle> {
        let record = RecordHandle::of(request.extensions());
        record.filter(|_| !self.look.refreshes)
    }

    /// Makes a response of an answer.
    #[inline(always)]
    pub(crate) fn show<B>(&self, answer: Answer, request: &Request<B>) -> Shown {
        let (entry, reason) = match answer {
            Answer::Fresh(entry, reason) => (entry, reason),
            Answer::Made(response) => return Shown::Made(*response),
            Answer::Streamed(streaming) => return self.show_streamed(*streaming, request),
        };
        let now = self.look.asked_at;
        let report = Report::hit(CacheSource::Hit, entry.freshness.ttl_secs(now));
        let mut report = report.reason(reason);
        match self.look.collapsing {
            Collapsing::Open | Collapsing::Alone => {}
            Collapsing::Collapsed => {
                report.forward = Some(Forward::UriMiss);
                report.collapsed = true;
            }
            Collapsing::Filled(forward) => {
                report.source = CacheSource::Miss;
                report.forward = Some(forward);
                report.stored = true;
            }
        }
        let told = self.told(request);
        match told.whole(entry, self.look, now, report) {
            Ok(whole) => Shown::Whole(whole),
            Err(entry) => {
                let asked = request.headers();
                Shown::Made(told.stored(&entry, self.look, asked, now, report))
            }
        }
    }

    /// Makes a response of one that is still being stored.
    #[cold]
    fn show_streamed<B>(&self, relayed: RelayedResponse, request: &Request<B>) -> Shown {
        let RelayedResponse {
            relay,
            reader,
            wait,
        } = relayed;
        let now = self.look.asked_at;
        let report = Report {
            forward: Some(Forward::UriMiss),
            collapsed: true,
            ..Report::hit(CacheSource::Hit, relay.head.freshness.ttl_secs(now))
        };
        let told = self.told(request);
        let response = told.stored(&relay.head, self.look, request.headers(), now, report);
        match self.look.head_only || response.status() == StatusCode::NOT_MODIFIED {
            true => Shown::Made(response),
            false => Shown::Streamed(Box::new(response.map(|_| (reader, wait)))),
        }
    }

    fn told<'a, B>(&'a self, request: &'a Request<B>) -> Told<'a> {
        Told {
            config: self.config,
            record: self.record(request),
            key: self.look.first_key(),
            waited: self.look.waited,
        }
    }

    /// Takes what the store said.
    #[inline]
    pub(crate) fn learn<B: 'static>(
        &mut self,
        answer: Result<Lookup, StoreError>,
        request: &mut Request<B>,
    ) -> Step {
        let (config, look) = (self.config, &mut *self.look);
        let Lookup { fence, found } = match answer {
            Ok(lookup) => lookup,
            Err(error) => {
                look.failed = Some(error.kind());
                return Step::Call;
            }
        };
        look.fence = Some(look.fence.map_or(fence, |first| first.min(fence)));
        match found {
            Found::Varies(spec) if look.hint.is_none() => {
                look.hint = Some(spec);
                return Step::Ask;
            }
            Found::Nothing => {}
            Found::NoVariant | Found::Varies(_) => look.forward = Forward::VaryMiss,
            Found::Entry {
                entry,
                stamp,
                expired,
            } => {
                let selection = Selection::new(request.headers(), config.keys.variants());
                let is_own = matches!(look.collapsing, Collapsing::Filled(_));
                let is_fresh = !expired && (is_own || look.is_fresh(&entry));
                if !fits(&selection, &entry) {
                    look.forward = Forward::VaryMiss;
                } else if !look.is_meant_for_caller(&entry) {
                    // What was made for the anonymous is not for a caller who is known.
                } else if !look.can_read(&entry, config, request.headers()) {
                    // It is made again.
                } else if entry.status == StatusCode::PARTIAL_CONTENT
                    && !look.is_held(&entry, request.headers())
                {
                    // It is of use to what it is a part of, when more of that has come.
                    look.forward = Forward::Partial;
                    look.part = look.key().copied().map(|key| {
                        Box::new(Stale {
                            key,
                            entry,
                            stamp,
                            fence,
                            expired,
                        })
                    });
                } else if is_fresh && !look.precondition && look.is_fresh_enough(&entry) {
                    return Step::Answer(Answer::Fresh(entry, None));
                } else if is_fresh && !look.precondition && !look.may_reload(config) {
                    return Step::Answer(Answer::Fresh(entry, Some(Reason::Reloaded)));
                } else if let Some(key) = look.key().copied() {
                    look.forward = match is_fresh {
                        true => Forward::Request,
                        false => Forward::Stale,
                    };
                    let found = Stale {
                        key,
                        entry,
                        stamp,
                        fence,
                        expired,
                    };
                    match found.entry.status == StatusCode::PARTIAL_CONTENT {
                        true => look.part = Some(Box::new(found)),
                        false => look.stale = Some(found),
                    }
                    return self.go_past(request);
                }
            }
        }
        if look.next_key() {
            return Step::Ask;
        }
        self.go_past(request)
    }

    /// Goes on after a flight has landed, or after a wait that was too long.
    pub(crate) fn landed(&mut self, landing: Option<Landing>) -> Step {
        self.look.resume(self.config);
        match landing {
            Some(Landing::Abandoned) => self.look.collapsing = self.look.collapsing.without_own(),
            Some(Landing::Stored) => match self.look.collapsing {
                Collapsing::Filled(_) => {}
                Collapsing::Open | Collapsing::Collapsed | Collapsing::Alone => {
                    self.look.collapsing = Collapsing::Collapsed;
                }
            },
            Some(Landing::NotStored | Landing::Failed) => self.look.collapsing = Collapsing::Alone,
            None => self.give_up(),
        }
        self.look_again()
    }

    /// Takes the head of the response that another request fills: this one streams it if it would be
    /// answered with it once it is stored.
    pub(super) fn head_came<B>(&mut self, joining: Box<Joining>, request: &Request<B>) -> Step {
        let relay = &joining.relay;
        self.look.asked_at = self.config.clock.coarse();
        if !self.may_stream(relay, request.headers()) {
            return self.wait_on(joining);
        }
        let (config, head) = (self.config, &relay.head);
        let purged = config.store.is_purged_since(&relay.key, head, relay.fence);
        let purged = config.deadline.bound(purged);
        let purged = config.watch.over(purged, || self.record(request).cloned());
        Step::Check(purged, joining)
    }

    /// Streams a response that is still being stored, unless it was purged meanwhile.
    pub(crate) fn checked(
        &mut self,
        purged: Result<bool, StoreError>,
        joining: Box<Joining>,
    ) -> Step {
        let reader = match purged {
            Ok(false) => joining.relay.reader(),
            Ok(true) | Err(_) => None,
        };
        let Some(reader) = reader else {
            return self.wait_on(joining);
        };
        self.look.resume(self.config);
        let Joining { relay, wait, .. } = *joining;
        Step::Answer(Answer::Streamed(Box::new(RelayedResponse {
            relay,
            reader,
            wait,
        })))
    }

    /// Waits until the response is stored, unless that has taken too long already.
    fn wait_on(&mut self, joining: Box<Joining>) -> Step {
        match joining.wait.is_slow() {
            true => self.landed(Some(Landing::NotStored)),
            false => Step::WaitOn(joining),
        }
    }

    /// Returns whether the request would be answered with a response once that is stored. A range is
    /// cut from the whole.
    fn may_stream(&mut self, relay: &Relay, asked: &HeaderMap) -> bool {
        let (config, look) = (self.config, &mut *self.look);
        look.in_own = look.own == Some(relay.key);
        let head = &relay.head;
        let is_unchanged =
            head.status == StatusCode::OK && preconditions::is_not_modified(asked, &head.headers);
        look.key() == Some(&relay.key)
            && !look.refreshes
            && !look.precondition
            && (!look.wants_part || is_unchanged)
            && look.is_meant_for_caller(head)
            && fits(&Selection::new(asked, config.keys.variants()), head)
            && look.is_fresh(head)
            && look.is_fresh_enough(head)
            && !config.order.is_refused(relay.turn)
    }

    /// Gives up waiting for a flight that takes too long.
    fn give_up(&mut self) {
        let (config, look) = (self.config, &mut *self.look);
        look.collapsing = Collapsing::Alone;
        let now = config.clock.coarse();
        if let Some(key) = look.first_key() {
            let url = key.uri();
            config
                .storable
                .set(url, look.route.as_ref(), Storable::No, now);
        }
        // A stale response stands in for an origin that hangs, too.
        if let Some(stale) = &look.stale {
            config.backoffs.failed(stale.key.full(), now);
        }
    }

    /// Decides how a request without a usable stored response is answered.
    fn go_past<B: 'static>(&mut self, request: &mut Request<B>) -> Step {
        let (config, look) = (self.config, &*self.look);
        if look.asks.only_if_cached && look.precondition {
            return Step::Answer(self.not_cached(request));
        }
        if look.precondition {
            return Step::Call;
        }
        if let Some(stale) = &look.stale {
            if look.accepts_stale(stale) {
                return Step::Answer(self.stale(&stale.entry, request, None));
            }
            if look.asks.only_if_cached {
                return Step::Answer(self.not_cached(request));
            }
            let shows = look.shows_while_validating(stale) && !look.refreshes && config.can_spawn();
            if !look.refreshes
                && config.backoffs.holds(stale.key.full(), look.asked_at)
                && (shows || look.may_stand_in(config, stale))
            {
                return Step::Answer(self.stale(&stale.entry, request, Some(Reason::Backoff)));
            }
            if shows {
                let stale = stale.clone();
                return self.answer_and_refresh(&stale, request);
            }
        } else if look.asks.only_if_cached {
            return Step::Answer(self.not_cached(request));
        }
        self.board(request)
    }

    /// Becomes the leader of a flight, or waits for it.
    fn board<B: 'static>(&mut self, request: &Request<B>) -> Step {
        if self.look.lead.is_some() {
            return self.lease(request);
        }
        let Some((key, flight)) = self.flight_key(request) else {
            return Step::Call;
        };
        let (config, look) = (self.config, &mut *self.look);
        let can_repeat = config.empty_bodies.can_make::<B>();
        match config.flights.board(&flight) {
            // Nobody could use the response to a request that is for this client alone.
            Boarding::Lead(_) if look.is_selective() && !can_repeat && !look.can_validate() => {
                look.collapsing = Collapsing::Alone;
                Step::Call
            }
            Boarding::Alone => Step::Call,
            Boarding::Wait(wait) => match look.may_wait_for(config.wait_at_most) {
                Some(left) => Step::Wait(wait, left),
                None => Step::Call,
            },
            Boarding::Lead(lead) => {
                look.lead(lead, key);
                if look.landed != config.flights.landed() {
                    return self.look_again();
                }
                let is_part = look.wants_part && !look.can_validate() && !config.rules.keep_parts;
                match look.head_only || is_part {
                    true => Step::Turn,
                    false => self.lease(request),
                }
            }
        }
    }

    /// Returns the cache key that the response would fill, and the key of its flight; nothing, if the
    /// request does not wait for others.
    fn flight_key<B: 'static>(&mut self, request: &Request<B>) -> Option<(CacheKey, LongStoreKey)> {
        let (config, look) = (self.config, &mut *self.look);
        let may_wait = match look.collapsing {
            Collapsing::Open => true,
            // The response that it has waited for is that of another variant or caller.
            Collapsing::Collapsed => {
                look.forward == Forward::VaryMiss || look.has_waited_for_other()
            }
            Collapsing::Filled(_) | Collapsing::Alone => false,
        };
        if !may_wait || look.asks.no_store || look.failed.is_some() {
            return None;
        }
        let route = framework::matched_path(request.extensions());
        look.route = route.map(|route| config.keys.route(route));
        let wishes = look.policy.as_ref().map(CachePolicy::wishes);
        let first = *look.first_key()?;
        let known = || {
            let now = look.asked_at;
            config.storable.get(first.uri(), look.route.as_ref(), now)
        };
        let known = match wishes.and_then(|wishes| wishes.collapse) {
            Some(true) => None,
            Some(false) => Some(Storable::No),
            None if look.has_waited_for_other() => Some(Storable::Own),
            None => known(),
        };
        let key = match known {
            Some(Storable::No) => {
                look.collapsing = Collapsing::Alone;
                return None;
            }
            Some(Storable::Own) => look.own.unwrap_or(first),
            Some(Storable::Shared) | None => first,
        };
        // A part fills nothing that a request for another range could use.
        let flight = match look.wants_part && config.rules.keep_parts {
            true => config.keys.part(&key, request.headers()),
            false => match &look.stale {
                Some(stale) if stale.key == key => flight_of(config, stale),
                Some(_) | None => *key.full(),
            },
        };
        Some((key, flight))
    }

    /// Goes on after the turn in which others may have come to wait.
    pub(crate) fn turned<B>(&mut self, request: &Request<B>) -> Step {
        match self.look.landed == self.config.flights.landed() {
            true => self.lease(request),
            false => self.look_again(),
        }
    }

    /// Becomes the one process that calls the handler.
    fn lease<B>(&mut self, request: &Request<B>) -> Step {
        let look = &*self.look;
        match look.lead_key() {
            Some(key) if look.lead.is_some() && look.leasing.is_open() => {
                let leased = lease::ask(self.config, key);
                Step::Lease(
                    self.config
                        .watch
                        .over(leased, || self.record(request).cloned()),
                )
            }
            Some(_) | None => Step::Call,
        }
    }

    /// Takes the store's reply to a request for the lease.
    pub(crate) fn leased(&mut self, answer: Result<Lease, StoreError>) -> Step {
        let Some(key) = self.look.lead_key() else {
            return Step::Call;
        };
        match self.look.leasing.take(answer, self.config, key) {
            Move::Make => Step::Call,
            Move::Look => self.look_again(),
            Move::Pause(pause) => {
                self.look.collapsing = Collapsing::Collapsed;
                let since = self.look.asked_at;
                self.look.waits_since.get_or_insert(since);
                Step::Pause(pause)
            }
        }
    }

    /// Goes on after a wait for another process.
    pub(super) fn paused(&mut self) -> Step {
        self.look.resume(self.config);
        self.look_again()
    }

    /// Looks the request up once more.
    fn look_again(&mut self) -> Step {
        self.look.start_over(self.config);
        Step::Ask
    }

    /// Sends a stale response, and refreshes it in the background unless another request does already.
    fn answer_and_refresh<B>(&mut self, stale: &Stale, request: &mut Request<B>) -> Step {
        let answer = self.stale(&stale.entry, request, None);
        let (config, look) = (self.config, &mut *self.look);
        let flight = flight_of(config, stale);
        let leads = look.lead.take().filter(|lead| lead.is_for(&flight));
        let Some(lead) = leads.or_else(|| config.flights.lead(&flight)) else {
            return Step::Answer(answer);
        };
        look.lead(lead, stale.key);
        look.refreshes = true;
        look.head_only = false;
        look.selective = false;
        look.wants_part = false;
        *request.method_mut() = http::Method::GET;
        revalidation::want_all(request);
        let leased = look.leasing.ask(config, stale.key);
        Step::AnswerAndRefresh(answer, leased)
    }

    /// Sends a stale response.
    fn stale<B>(
        &self,
        entry: &StoredResponse,
        request: &Request<B>,
        reason: Option<Reason>,
    ) -> Answer {
        let now = self.config.clock.now();
        let report = Report::hit(CacheSource::Stale, entry.freshness.ttl_secs(now)).reason(reason);
        let told = self.told(request);
        let response = told.stored(entry, self.look, request.headers(), now, report);
        Answer::Made(Box::new(response))
    }

    /// Answers a client that wants an answer from the store or none (RFC 9111 section 5.2.1.7).
    fn not_cached<B>(&self, request: &Request<B>) -> Answer {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::GATEWAY_TIMEOUT;
        let report = Report {
            forward: None,
            ..Report::forwarded(CacheSource::Miss, Forward::UriMiss)
        };
        let report = report.reason(Reason::OnlyIfCached);
        self.told(request).report(report, &mut response);
        Answer::Made(Box::new(response))
    }
}

/// Returns the key of the flight that validates a stale response: of its variant alone, as other
/// variants are not waited for.
fn flight_of(config: &Config, stale: &Stale) -> LongStoreKey {
    let entry = &stale.entry;
    match entry.vary.is_empty() {
        true => *stale.key.full(),
        false => config.keys.variant(&stale.key, &entry.variant),
    }
}

impl Look {
    /// Returns whether the shared response that a known caller has waited for is not for it.
    fn has_waited_for_other(&self) -> bool {
        self.collapsing == Collapsing::Collapsed
            && self.shared.is_some()
            && self.own.is_some()
            && self.stale.is_none()
    }

    fn is_meant_for_caller(&self, entry: &StoredResponse) -> bool {
        self.in_own || entry.says_shared || self.caller == Caller::Anonymous
    }

    /// Returns whether the client may have what is fresh made anew. One that wants it from the store
    /// or not at all has nothing made.
    fn may_reload(&self, config: &Config) -> bool {
        self.asks.only_if_cached
            || self
                .key()
                .is_none_or(|key| config.reloads.take(key.full(), self.asked_at))
    }

    /// Returns whether an answer can be shown to the client: as it is kept, or decompressed, which is
    /// done here.
    fn can_read(&mut self, entry: &StoredResponse, config: &Config, asked: &HeaderMap) -> bool {
        self.plain = None;
        let Some(plain_bytes) = entry.packed else {
            return true;
        };
        if self.head_only {
            self.plain = (!packing::takes_packed(asked)).then(Bytes::new);
        } else if !packing::takes_packed(asked) {
            let plain_bytes = usize::try_from(plain_bytes).ok();
            let unpacked = config.rules.packer.zip(plain_bytes);
            self.plain = unpacked.and_then(|(packer, len)| (packer.unpack)(&entry.body, len));
            return self.plain.is_some();
        }
        true
    }

    /// Returns whether a stored part holds what the request asks for.
    fn is_held(&self, entry: &StoredResponse, asked: &HeaderMap) -> bool {
        self.wants_part && content_range::within(entry, asked).is_some()
    }

    fn is_fresh(&self, entry: &StoredResponse) -> bool {
        let freshness = &entry.freshness;
        !freshness.always_validate && freshness.ttl_secs(self.asked_at) > 0
    }

    /// Returns whether a fresh answer is fresh enough for what the request asks.
    fn is_fresh_enough(&self, entry: &StoredResponse) -> bool {
        let age_secs = entry.freshness.age_secs(self.asked_at);
        let ttl_secs = entry.freshness.ttl_secs(self.asked_at);
        let asks = &self.asks;
        if let Collapsing::Filled(_) = self.collapsing {
            return true;
        }
        !asks.no_cache
            && asks.max_age_secs.is_none_or(|most| age_secs <= most)
            && asks
                .min_fresh_secs
                .is_none_or(|least| ttl_secs >= i64::from(least))
    }

    /// Returns whether the request takes a stale answer as it is (`max-stale`).
    fn accepts_stale(&self, stale: &Stale) -> bool {
        let freshness = &stale.entry.freshness;
        let stale_secs = -freshness.ttl_secs(self.asked_at);
        !self.asks.no_cache
            && !stale.expired
            && !freshness.never_stale
            && !freshness.always_validate
            && self
                .asks
                .max_stale_secs
                .is_some_and(|most| stale_secs <= i64::from(most))
    }

    /// Returns whether a stale answer may be shown while it is validated (RFC 5861 section 3).
    fn shows_while_validating(&self, stale: &Stale) -> bool {
        let freshness = &stale.entry.freshness;
        let stale_secs = -freshness.ttl_secs(self.asked_at);
        self.forward == Forward::Stale
            && !self.asks.no_cache
            && !freshness.never_stale
            && !freshness.always_validate
            && freshness.while_revalidate_secs > 0
            && stale_secs <= i64::from(freshness.while_revalidate_secs)
    }

    /// Returns how much longer the request may wait for others.
    fn may_wait_for(&mut self, at_most: Duration) -> Option<Duration> {
        let since = *self.waits_since.get_or_insert(self.asked_at);
        let left = at_most.saturating_sub(self.asked_at - since);
        (!left.is_zero()).then_some(left)
    }

    /// Returns whether the stored response has a validator by which the handler can be asked.
    pub(crate) fn can_validate(&self) -> bool {
        let stale = self.stale.as_ref();
        stale.is_some_and(|stale| revalidation::has_validator(&stale.entry.headers))
    }

    /// Returns whether a stale response may stand in for an origin that fails (RFC 5861 section 4).
    pub(crate) fn may_stand_in(&self, config: &Config, stale: &Stale) -> bool {
        let freshness = &stale.entry.freshness;
        // A precondition is evaluated by the origin alone.
        if self.precondition || freshness.never_stale || freshness.always_validate {
            return false;
        }
        let stale_secs = -freshness.ttl_secs(config.clock.now());
        if config.rules.stale_on_error || (stale_secs < 0 && !stale.expired) {
            return true;
        }
        let allowed = freshness
            .if_error_secs
            .max(self.asks.stale_if_error_secs.unwrap_or(0));
        allowed > 0 && stale_secs <= i64::from(allowed)
    }
}
