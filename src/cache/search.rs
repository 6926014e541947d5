//! What to ask the store for a request, and what to make of what it says.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};

use super::{
    cache_status::{Forward, Report},
    collapse::{Boarding, Landing, Wait},
    config::Config,
    entry::{StoredResponse, fits},
    lease::{self, Move},
    packing, part,
    plan::{Look, Stale},
    reason::Reason,
    shown::{Told, Whole},
    storability::Caller,
    store::{Found, Lease, Lookup},
    validation,
    vary::Selection,
};
use crate::{
    error::StoreError,
    record::{CacheSource, RecordHandle},
    runtime::Task,
    store_future::StoreFuture,
};

/// A request on its way to an answer: from the store, or past it.
pub(super) struct Search<'a> {
    pub(super) config: &'a Arc<Config>,
    pub(super) look: &'a mut Look,
}

/// What follows from what the store said.
pub(super) enum Step {
    /// Another question to the store.
    Ask,
    /// A call of the handler.
    Call,
    /// This answer.
    Answer(Answer),
    /// This answer, and a call of the handler beside it, for the next one: at once, or if the store
    /// gives the lease of it.
    AnswerAndRefresh(Answer, Option<StoreFuture<Lease>>),
    /// A wait for another request's answer, for so long at most.
    Wait(Wait, Duration),
    /// A question to the store, for the lease of the answer.
    Lease(StoreFuture<Lease>),
    /// A wait for another process's answer.
    Pause(Task),
}

/// An answer for which the handler is not called.
pub(super) enum Answer {
    /// What the store has, and why it is shown although the client wanted another one, if it did.
    Fresh(Arc<StoredResponse>, Option<Reason>),
    /// Whatever is seldom.
    Made(Box<Response<Bytes>>),
}

/// An answer as the client is shown it.
pub(super) enum Shown {
    Whole(Whole),
    Made(Response<Bytes>),
}

impl Search<'_> {
    /// Asks the store.
    #[inline]
    pub(super) fn ask<B>(&self, request: &Request<B>) -> Option<StoreFuture<Lookup>> {
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
    pub(super) fn show<B>(&self, answer: Answer, request: &Request<B>) -> Shown {
        let (entry, reason) = match answer {
            Answer::Fresh(entry, reason) => (entry, reason),
            Answer::Made(response) => return Shown::Made(*response),
        };
        let now = self.look.asked_at;
        let report = Report::hit(CacheSource::Hit, entry.freshness.ttl_secs(now));
        let mut report = report.reason(reason);
        if self.look.collapsed {
            report.forward = Some(Forward::UriMiss);
            report.collapsed = true;
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

    fn told<'a, B>(&'a self, request: &'a Request<B>) -> Told<'a> {
        Told {
            config: self.config,
            record: self.record(request),
            key: self.look.first_key(),
        }
    }

    /// Takes what the store said.
    #[inline]
    pub(super) fn learn<B>(
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
                let is_fresh = !expired && look.is_fresh(&entry);
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
                    look.part = Some(entry);
                } else if is_fresh && look.is_fresh_enough(&entry) {
                    return Step::Answer(Answer::Fresh(entry, None));
                } else if is_fresh && !look.may_reload(config) {
                    return Step::Answer(Answer::Fresh(entry, Some(Reason::Reloaded)));
                } else if let Some(key) = look.key().copied() {
                    look.forward = match is_fresh {
                        true => Forward::Request,
                        false => Forward::Stale,
                    };
                    if entry.status == StatusCode::PARTIAL_CONTENT {
                        look.part = Some(entry);
                        return self.go_past(request);
                    }
                    look.stale = Some(Stale {
                        key,
                        entry,
                        stamp,
                        expired,
                    });
                    return self.go_past(request);
                }
            }
        }
        if look.next_key() {
            return Step::Ask;
        }
        self.go_past(request)
    }

    /// Takes what became of the answer that was waited for; nothing, if the wait was too long.
    pub(super) fn landed(&mut self, landing: Option<Landing>) -> Step {
        match landing {
            Some(landing @ (Landing::Stored | Landing::Abandoned)) => {
                self.look.collapsed = landing == Landing::Stored;
                self.look.start_over(self.config);
                Step::Ask
            }
            Some(Landing::NotStored) | None => Step::Call,
        }
    }

    /// Decides how a request comes to its answer for which the store has none that may be shown as
    /// it is.
    fn go_past<B>(&mut self, request: &mut Request<B>) -> Step {
        let look = &*self.look;
        if let Some(stale) = &look.stale {
            if look.accepts_stale(stale) {
                return Step::Answer(self.stale(&stale.entry, request));
            }
            if look.asks.only_if_cached {
                return Step::Answer(self.not_cached(request));
            }
            if look.shows_while_validating(stale) && !look.refreshes && self.config.can_spawn() {
                let stale = stale.clone();
                return self.answer_and_refresh(&stale, request);
            }
        } else if look.asks.only_if_cached {
            return Step::Answer(self.not_cached(request));
        }
        self.board(request)
    }

    /// Becomes the one that makes the answer, or waits for it.
    fn board<B>(&mut self, request: &Request<B>) -> Step {
        let (config, look) = (self.config, &mut *self.look);
        if look.lead.is_none() && !look.collapsed && look.may_be_waited_for() {
            let Some(key) = look.first_key() else {
                return Step::Call;
            };
            match config.flights.board(key.full(), look.asked_at) {
                Boarding::Wait(wait) => match look.may_wait_for(config.wait_at_most) {
                    Some(left) => return Step::Wait(wait, left),
                    None => return Step::Call,
                },
                Boarding::Lead(lead) => {
                    look.lead = Some(lead);
                    if look.landed != config.flights.landed() {
                        look.start_over(config);
                        return Step::Ask;
                    }
                }
                Boarding::Alone => {}
            }
        }
        self.lease(request)
    }

    /// Becomes the one process that makes the answer that others wait for.
    fn lease<B>(&mut self, request: &Request<B>) -> Step {
        let look = &*self.look;
        match look.first_key() {
            Some(key) if look.lead.is_some() && look.leasing.is_open() => {
                let leased = lease::ask(self.config, *key);
                Step::Lease(
                    self.config
                        .watch
                        .over(leased, || self.record(request).cloned()),
                )
            }
            Some(_) | None => Step::Call,
        }
    }

    /// Takes what the store said of the lease.
    pub(super) fn leased(&mut self, answer: Result<Lease, StoreError>) -> Step {
        let Some(key) = self.look.first_key().copied() else {
            return Step::Call;
        };
        match self.look.leasing.take(answer, self.config, key) {
            Move::Make => Step::Call,
            Move::Look => self.look_again(),
            Move::Pause(pause) => {
                self.look.collapsed = true;
                Step::Pause(pause)
            }
        }
    }

    /// Looks into the store once more.
    pub(super) fn look_again(&mut self) -> Step {
        self.look.start_over(self.config);
        Step::Ask
    }

    /// Shows what is stale, and makes the next answer beside that, unless somebody does already.
    fn answer_and_refresh<B>(&mut self, stale: &Stale, request: &mut Request<B>) -> Step {
        let answer = self.stale(&stale.entry, request);
        let (config, look) = (self.config, &mut *self.look);
        let leads = look
            .lead
            .take()
            .filter(|lead| lead.is_for(stale.key.full()));
        let lead = match leads {
            Some(lead) => lead,
            None => match config.flights.board(stale.key.full(), look.asked_at) {
                Boarding::Lead(lead) => lead,
                Boarding::Wait(_) | Boarding::Alone => return Step::Answer(answer),
            },
        };
        look.lead = Some(lead);
        look.refreshes = true;
        look.head_only = false;
        *request.method_mut() = http::Method::GET;
        validation::want_all(request);
        let leased = look.leasing.ask(config, stale.key);
        Step::AnswerAndRefresh(answer, leased)
    }

    /// Answers with what is stale.
    fn stale<B>(&self, entry: &StoredResponse, request: &Request<B>) -> Answer {
        let now = self.config.clock.now();
        let report = Report::hit(CacheSource::Stale, entry.freshness.ttl_secs(now));
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
        Answer::Made(Box::new(self.told(request).reported(report, response)))
    }
}

impl Look {
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
        self.wants_part && part::within(entry, asked).is_some()
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

    /// Returns for how long the request may wait for another one, all that it has waited for before
    /// counted.
    fn may_wait_for(&mut self, at_most: Duration) -> Option<Duration> {
        let since = *self.waits_since.get_or_insert(self.asked_at);
        let left = at_most.saturating_sub(self.asked_at - since);
        (!left.is_zero()).then_some(left)
    }

    /// Returns whether the answer to this request may serve others too.
    fn may_be_waited_for(&self) -> bool {
        !self.head_only && !self.selective && !self.asks.no_store && self.failed.is_none()
    }
}
