//! One request and its answer: what to ask the store, and what to make of what it says.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body::Body;

use super::{
    answer,
    assured::assured,
    body::CacheBody,
    cache_status::{CACHE_STATUS, Forward, Report},
    collapse::{Boarding, Landing, Wait},
    config::Config,
    date,
    entry::{self, StoredResponse, fits, remove_hop_by_hop},
    fill::{Fill, Head},
    freshness::Times,
    invalidate,
    key::{Partition, Target},
    lease::{self, Move},
    packing,
    part::{self, Place},
    plan::{AsGot, Change, Look, Plan, Stale},
    reason::Reason,
    storability::{Caller, Verdict, Wanted, is_explicit, judge},
    store::{Fence, Found, Lease, Lookup, PurgeMode, PurgeTarget, Touch},
    tags::{self, CacheTags},
    validation,
    vary::Selection,
};
use crate::{
    error::{StoreError, StoreErrorKind},
    record::{CacheSource, RecordHandle},
    runtime::Task,
    store_future::StoreFuture,
    store_key::StoreKey,
};

/// One request and its answer.
pub(super) struct Exchange {
    pub(super) config: Arc<Config>,
    record: Option<RecordHandle>,
    plan: Plan,
    /// What the record, and by choice the client, is told of the key.
    key_hash: Option<[u8; 8]>,
}

/// What follows from what the store said.
pub(super) enum Step {
    /// Another question to the store.
    Ask,
    /// A call of the handler.
    Call,
    /// This answer.
    Answer(Response<Bytes>),
    /// This answer, and a call of the handler beside it, for the next one: at once, or if the store
    /// gives the lease of it.
    AnswerAndRefresh(Response<Bytes>, Option<StoreFuture<Lease>>),
    /// A wait for another request's answer.
    Wait(Wait),
    /// A question to the store, for the lease of the answer.
    Lease(StoreFuture<Lease>),
    /// A wait for another process's answer.
    Pause(Task),
}

/// What is still to be done before the client may see an answer.
pub(super) struct Settling {
    pub(super) settled: StoreFuture<()>,
    /// Whether the answer is kept after that.
    pub(super) keep: Option<Box<Keep>>,
}

/// An answer to a POST that is kept for GET, once the purge is done that it brings itself.
pub(super) struct Keep {
    exchange: Exchange,
    as_got: AsGot,
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
    /// Begins with a request.
    pub(super) fn begin<B: Body>(config: &Arc<Config>, request: &mut Request<B>) -> Self {
        let plan = Plan::of(config, request);
        let record = RecordHandle::of(request.extensions()).cloned();
        let is_told = config.shows_key || record.is_some();
        Self {
            key_hash: plan.key_hash().filter(|_| is_told),
            config: Arc::clone(config),
            record,
            plan,
        }
    }

    /// Asks the store, if it is to be asked.
    pub(super) fn ask<B>(&self, request: &Request<B>) -> Option<StoreFuture<Lookup>> {
        let Plan::Look(look) = &self.plan else {
            return None;
        };
        let selection = Selection::new(request.headers(), self.config.keys.variants());
        let selection = match &look.hint {
            Some(hint) => selection.with_hint(hint),
            None => selection,
        };
        let answer = self.config.store.get(&look.key()?, &selection);
        let answer = self.config.deadline.bound(answer);
        Some(self.config.watch.over(answer, || self.record.clone()))
    }

    /// Takes what the store said.
    pub(super) fn learn<B>(
        &mut self,
        answer: Result<Lookup, StoreError>,
        request: &mut Request<B>,
    ) -> Step {
        let Plan::Look(look) = &mut self.plan else {
            return Step::Call;
        };
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
                let selection = Selection::new(request.headers(), self.config.keys.variants());
                if !fits(&selection, &entry) {
                    look.forward = Forward::VaryMiss;
                } else if !look.is_meant_for_caller(&entry) {
                    // What was made for the anonymous is not for a caller who is known.
                } else if !look.can_read(&entry, &self.config, request.headers()) {
                    // It is made again.
                } else if entry.status == StatusCode::PARTIAL_CONTENT
                    && !look.is_held(&entry, request.headers())
                {
                    // It is of use to what it is a part of, when more of that has come.
                    look.forward = Forward::Partial;
                    look.part = Some(entry);
                } else if !expired && look.is_fresh(&entry) && look.is_fresh_enough(&entry) {
                    return Step::Answer(self.hit(&entry, request.headers(), None));
                } else if !expired && look.is_fresh(&entry) && !look.may_reload(&self.config) {
                    let reason = Some(Reason::Reloaded);
                    return Step::Answer(self.hit(&entry, request.headers(), reason));
                } else if let Some(key) = look.key() {
                    look.forward = match !expired && look.is_fresh(&entry) {
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
    pub(super) fn landed<B>(&mut self, landing: Option<Landing>, request: &mut Request<B>) -> Step {
        let Plan::Look(look) = &mut self.plan else {
            return Step::Call;
        };
        match landing {
            Some(landing @ (Landing::Stored | Landing::Abandoned)) => {
                look.collapsed = landing == Landing::Stored;
                look.start_over(&self.config);
                Step::Ask
            }
            Some(Landing::NotStored) | None => self.call(request),
        }
    }

    /// Decides how a request comes to its answer for which the store has none that may be shown as
    /// it is.
    fn go_past<B>(&mut self, request: &mut Request<B>) -> Step {
        let Plan::Look(look) = &mut self.plan else {
            return Step::Call;
        };
        if let Some(stale) = look.stale.clone() {
            let within = look.shows_while_validating(&stale);
            if look.asks.only_if_cached && !look.accepts_stale(&stale) {
                return Step::Answer(self.not_cached());
            }
            if look.accepts_stale(&stale) {
                return Step::Answer(self.stale(&stale.entry, request.headers(), None));
            }
            if within && !look.refreshes && self.config.can_spawn() {
                return self.answer_and_refresh(&stale, request);
            }
        } else if look.asks.only_if_cached {
            return Step::Answer(self.not_cached());
        }
        self.board(request)
    }

    /// Becomes the one that makes the answer, or waits for it.
    fn board<B>(&mut self, request: &mut Request<B>) -> Step {
        let Plan::Look(look) = &mut self.plan else {
            return Step::Call;
        };
        if look.lead.is_none() && !look.collapsed && look.may_be_waited_for() {
            let Some(key) = look.shared.or(look.own) else {
                return self.call(request);
            };
            match self.config.flights.board(key.full(), look.asked_at) {
                Boarding::Wait(wait) => return Step::Wait(wait),
                Boarding::Lead(lead) => {
                    look.lead = Some(lead);
                    if look.landed != self.config.flights.landed() {
                        look.start_over(&self.config);
                        return Step::Ask;
                    }
                }
                Boarding::Alone => {}
            }
        }
        self.lease(request)
    }

    /// Becomes the one process that makes the answer that others wait for.
    fn lease<B>(&mut self, request: &mut Request<B>) -> Step {
        let Plan::Look(look) = &mut self.plan else {
            return Step::Call;
        };
        match look.shared.or(look.own) {
            Some(key) if look.lead.is_some() && look.leasing.is_open() => {
                let leased = lease::ask(&self.config, key);
                Step::Lease(self.config.watch.over(leased, || self.record.clone()))
            }
            Some(_) | None => self.call(request),
        }
    }

    /// Takes what the store said of the lease.
    pub(super) fn leased<B>(
        &mut self,
        answer: Result<Lease, StoreError>,
        request: &mut Request<B>,
    ) -> Step {
        let Plan::Look(look) = &mut self.plan else {
            return Step::Call;
        };
        let Some(key) = look.shared.or(look.own) else {
            return self.call(request);
        };
        match look.leasing.take(answer, &self.config, key) {
            Move::Make => self.call(request),
            Move::Look => self.look_again(),
            Move::Pause(pause) => {
                look.collapsed = true;
                Step::Pause(pause)
            }
        }
    }

    /// Looks into the store once more.
    pub(super) fn look_again(&mut self) -> Step {
        if let Plan::Look(look) = &mut self.plan {
            look.start_over(&self.config);
        }
        Step::Ask
    }

    /// Prepares the call of the handler.
    fn call<B>(&mut self, request: &mut Request<B>) -> Step {
        if let Plan::Look(look) = &mut self.plan {
            look.collapsed = false;
            if !look.head_only {
                look.keep_fields(request.headers());
                if let Some(stale) = &look.stale {
                    look.validates = validation::ask(request, &stale.entry.headers);
                }
            }
        }
        Step::Call
    }

    /// Shows what is stale, and makes the next answer beside that, unless somebody does already.
    fn answer_and_refresh<B>(&mut self, stale: &Stale, request: &mut Request<B>) -> Step {
        let response = self.stale(&stale.entry, request.headers(), None);
        let Plan::Look(look) = &mut self.plan else {
            return Step::Call;
        };
        let leads = look
            .lead
            .take()
            .filter(|lead| lead.is_for(stale.key.full()));
        let lead = match leads {
            Some(lead) => lead,
            None => match self.config.flights.board(stale.key.full(), look.asked_at) {
                Boarding::Lead(lead) => lead,
                Boarding::Wait(_) | Boarding::Alone => return Step::Answer(response),
            },
        };
        look.lead = Some(lead);
        look.refreshes = true;
        look.head_only = false;
        *request.method_mut() = http::Method::GET;
        self.record = None;
        let leased = look.leasing.ask(&self.config, stale.key);
        if leased.is_none() {
            self.call(request);
        }
        Step::AnswerAndRefresh(response, leased)
    }

    /// Takes the handler's answer, and returns it with what is still to be done before the client
    /// may see it.
    pub(super) fn conclude<B>(
        mut self,
        response: Response<B>,
    ) -> (Response<CacheBody<B>>, Option<Settling>)
    where
        B: Body<Data = Bytes> + Send + 'static,
    {
        match std::mem::replace(&mut self.plan, Plan::Pass(Forward::Bypass, Reason::Off)) {
            Plan::Pass(forward, reason) => {
                let report = Report::forwarded(CacheSource::Bypass, forward).reason(reason);
                (self.reported(report, response.map(CacheBody::inner)), None)
            }
            Plan::Change(change) => self.conclude_change(change, response),
            Plan::Look(look) => self.conclude_look(look, response),
        }
    }

    fn conclude_change<B>(
        self,
        mut change: Change,
        response: Response<B>,
    ) -> (Response<CacheBody<B>>, Option<Settling>)
    where
        B: Body<Data = Bytes> + Send + 'static,
    {
        let as_got = change.as_got.take();
        let as_got = as_got.filter(|as_got| {
            let times = self.times(&as_got.look);
            change.is_as_got(&response)
                && is_explicit(&self.config.rules, response.headers(), &times)
        });
        let settled = change.purge(&self.config, &response);
        let settled = settled.map(|purge| {
            let purge = assured(&self.config, purge, drop);
            let purge = self.config.deadline.bound(purge);
            self.config.watch.over(purge, || self.record.clone())
        });
        let response = response.map(CacheBody::inner);
        match (settled, as_got) {
            (Some(settled), Some(as_got)) => {
                let keep = Keep {
                    exchange: self,
                    as_got: *as_got,
                };
                let keep = Some(Box::new(keep));
                (response, Some(Settling { settled, keep }))
            }
            (settled, _) => {
                let report = Report::forwarded(CacheSource::Bypass, Forward::Method);
                (self.reported(report, response), settled.map(Settling::from))
            }
        }
    }

    fn conclude_look<B>(
        &self,
        mut look: Look,
        response: Response<B>,
    ) -> (Response<CacheBody<B>>, Option<Settling>)
    where
        B: Body<Data = Bytes> + Send + 'static,
    {
        if let Some(stale) = look.stale.clone() {
            if look.validates && response.status() == StatusCode::NOT_MODIFIED {
                return self.revalidated(&mut look, &stale, &response);
            }
            if look.head_only && response.status() == StatusCode::OK {
                if validation::describes(response.headers(), &stale.entry.headers) {
                    return self.revalidated(&mut look, &stale, &response);
                }
                let settling = self.outdated(&look, stale).map(Settling::from);
                return (self.fill(look, response), settling);
            }
            if stands_in_for(response.status()) && self.may_stand_in(&look, &stale) {
                let asked = look.asked_fields();
                self.land(&mut look, Landing::NotStored);
                let status = Some(response.status());
                let answer = self.stale_for(&look, &stale.entry, &asked, status);
                return (answer.map(CacheBody::stored), None);
            }
        }
        (self.fill(look, response), None)
    }

    /// Takes a failure of the handler. Returns a stale answer, if one may stand in.
    pub(super) fn rescue(mut self) -> Option<Response<Bytes>> {
        let plan = std::mem::replace(&mut self.plan, Plan::Pass(Forward::Bypass, Reason::Off));
        let Plan::Look(mut look) = plan else {
            return None;
        };
        self.land(&mut look, Landing::NotStored);
        let stale = look.stale.take()?;
        let asked = look.asked_fields();
        self.may_stand_in(&look, &stale)
            .then(|| self.stale_for(&look, &stale.entry, &asked, None))
    }

    /// Answers with what is stored, fresh again: by a `304`, or by an answer to a HEAD.
    fn revalidated<B>(
        &self,
        look: &mut Look,
        stale: &Stale,
        answer: &Response<B>,
    ) -> (Response<CacheBody<B>>, Option<Settling>) {
        let fresh = answer.headers();
        let headers = validation::merged(&stale.entry.headers, fresh);
        // What has not changed is as old as the answer that says so, and not as it was stored.
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
        let wanted = look.wanted(answer);
        let verdict = judge(rules, &look.caller, status, &dated, &wanted, &times);
        let mut entry = StoredResponse {
            headers,
            ..(*stale.entry).clone()
        };
        let mut settling = None;
        if let (Ok(verdict), Some(fence)) = (&verdict, look.fence) {
            entry.headers = self.kept_headers(&dated, verdict, &times);
            entry.freshness = self.config.jitter.shorten(verdict.freshness, &stale.key);
            entry.says_shared = verdict.says_shared;
            let touch = Touch {
                key: stale.key,
                entry: Arc::new(entry.clone()),
                stamp: stale.stamp,
                fence,
                retain: self.retain(verdict),
            };
            settling = Some(self.touch(touch));
        }
        self.land(look, Landing::Stored);
        let asked = look.asked_fields();
        let selective = look.selective.then_some(&asked);
        let now = self.config.clock.now();
        let plain = look.plain.as_ref();
        let response = answer::respond(&entry, plain, selective, look.head_only, now);
        let report = Report {
            forward: Some(look.forward),
            forward_status: Some(answer.status()),
            stored: settling.is_some(),
            ..Report::hit(CacheSource::Revalidated, entry.freshness.ttl_secs(now))
        };
        let report = report.reason(verdict.err());
        (
            self.reported(report, response.map(CacheBody::stored)),
            settling.map(Settling::from),
        )
    }

    /// Holds what is stored for stale: an answer to a HEAD has shown that it is another one (RFC 9111
    /// section 4.3.5).
    fn outdated(&self, look: &Look, stale: Stale) -> Option<StoreFuture<()>> {
        let mut entry = (*stale.entry).clone();
        entry.freshness.lifetime_secs = 0;
        entry.freshness.while_revalidate_secs = 0;
        let retain = entry.freshness.retain(self.config.validated_for);
        Some(self.touch(Touch {
            key: stale.key,
            entry: Arc::new(entry),
            stamp: stale.stamp,
            fence: look.fence?,
            retain,
        }))
    }

    fn touch(&self, touch: Touch) -> StoreFuture<()> {
        let touched = self.config.store.touch(touch);
        let touched = self.config.deadline.bound(touched);
        let touched = self.config.watch.over(touched, || self.record.clone());
        match touched.into_ready() {
            // One that was replaced meanwhile stays as it is.
            Ok(touched) => touched.map(drop).into(),
            Err(pending) => StoreFuture::pending(async { pending.await.map(drop) }),
        }
    }

    /// Lets an answer through, and stores what passes if it may be kept.
    fn fill<B>(&self, mut look: Look, response: Response<B>) -> Response<CacheBody<B>>
    where
        B: Body<Data = Bytes> + Send + 'static,
    {
        let source = match look.failed {
            Some(kind) => CacheSource::StoreFailed(kind),
            None => CacheSource::Miss,
        };
        let mut report = Report::forwarded(source, look.forward);
        if look.validates {
            report.forward_status = Some(response.status());
        }
        let filling = self.filling(&look, &response);
        let mut response = response;
        self.take_tags_off(response.headers_mut());
        match filling {
            Err(reason) => {
                self.land(&mut look, Landing::NotStored);
                let report = report.reason(reason);
                self.reported(report, response.map(CacheBody::inner))
            }
            Ok(mut fill) => {
                // Those who wait for a shared answer do not wait for one of the caller's own.
                match look.lead.take() {
                    Some(lead) if lead.is_for(fill.head.key.full()) => {
                        fill.lead = Some(lead);
                        fill.lease = look.leasing.hand_over();
                    }
                    Some(lead) => lead.land(Landing::NotStored, self.config.clock.now()),
                    None => {}
                }
                let freshness = &fill.head.freshness;
                report.stored = true;
                report.ttl_secs = Some(freshness.ttl_secs(freshness.received_at));
                fill.record.clone_from(&self.record);
                Self::negotiates(&fill, response.headers_mut());
                let response = self.reported(report, response);
                response.map(|body| CacheBody::filling(body, fill))
            }
        }
    }

    /// Begins to store an answer, or says why it is not kept.
    fn filling<B>(&self, look: &Look, response: &Response<B>) -> Result<Fill, Option<Reason>>
    where
        B: Body<Data = Bytes> + Send + 'static,
    {
        if look.failed.is_some() {
            return Err(Some(Reason::Store));
        }
        let Some(fence) = look.fence.filter(|_| !look.head_only) else {
            return Err(None);
        };
        if look.asks.no_store {
            return Err(Some(Reason::RequestDirective));
        }
        let times = self.times(look);
        let headers = response.headers();
        let rules = &self.config.rules;
        let mut expected_bytes = expected_bytes(response)?;
        let place = self.place(look, response, expected_bytes)?;
        let status = match place {
            // A part is kept as a `200` that is not complete.
            Some(_) => StatusCode::OK,
            None => response.status(),
        };
        let wanted = look.wanted(response);
        let verdict = judge(rules, &look.caller, status, headers, &wanted, &times)?;
        expected_bytes = place.map_or(expected_bytes, |place| Some(place.len() as u64));
        if expected_bytes.is_some_and(|bytes| bytes > rules.body_bytes_max) {
            return Err(Some(Reason::TooLarge));
        }
        let mut head = self.head(look, &verdict, fence, response, &times)?;
        if let Some(place) = place {
            head.headers.insert(header::CONTENT_RANGE, place.to_value());
        }
        let mut fill = Fill::new(Arc::clone(&self.config), head, expected_bytes);
        fill.packer = rules.packer.filter(|packer| {
            fill.head.status == StatusCode::OK
                && fill.head.is_shared
                && expected_bytes.is_none_or(|bytes| bytes >= packer.bytes_min)
                && packing::may_be_packed(response.headers())
        });
        fill.part = look.part.clone().filter(|_| place.is_some());
        Ok(fill)
    }

    /// Returns where the part lies that an answer brings, if it brings one that is to be kept.
    fn place<B>(
        &self,
        look: &Look,
        response: &Response<B>,
        len: Option<u64>,
    ) -> Result<Option<Place>, Reason> {
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return Ok(None);
        }
        // Nothing that is complete goes for a part of it.
        if !self.config.rules.keep_parts || !look.wants_part || look.stale.is_some() {
            return Err(Reason::Partial);
        }
        Place::of(response.headers(), len).map(Some)
    }

    fn head<B>(
        &self,
        look: &Look,
        verdict: &Verdict,
        fence: Fence,
        response: &Response<B>,
        times: &Times,
    ) -> Result<Head, Option<Reason>> {
        let (key, partition) = match (&look.caller, verdict.shared) {
            (Caller::Known { digest, .. }, false) => (look.own, Partition::Own(digest)),
            (_, true) | (Caller::Anonymous | Caller::Unvouched, false) => {
                (look.shared, Partition::Shared)
            }
        };
        let config = &self.config;
        let asked = look.asked_fields();
        let variant = Selection::new(&asked, config.keys.variants()).variant(&verdict.vary);
        let key = key.ok_or(None::<Reason>)?;
        Ok(Head {
            key,
            fence,
            retain: self.retain(verdict),
            status: response.status(),
            headers: self.kept_headers(response.headers(), verdict, times),
            freshness: config.jitter.shorten(verdict.freshness, &key),
            vary: verdict.vary.clone(),
            variant,
            partition: config.keys.partition(partition),
            is_shared: partition == Partition::Shared,
            says_shared: verdict.says_shared,
            tags: self.tags(response),
        })
    }

    fn tags<B>(&self, response: &Response<B>) -> Vec<StoreKey> {
        let mut keys = Vec::new();
        let fields = &self.config.rules.tag_headers;
        let named = response.extensions().get::<CacheTags>();
        tags::each(response.headers(), fields, named, |tag| {
            keys.push(self.config.keys.tag(tag));
        });
        keys
    }

    fn times(&self, look: &Look) -> Times {
        Times {
            asked_at: look.asked_at,
            received_at: self.config.clock.now(),
            received_wall: self.config.clock.wall(),
        }
    }

    /// Returns the fields that are kept of an answer.
    fn kept_headers(&self, headers: &HeaderMap, verdict: &Verdict, times: &Times) -> HeaderMap {
        let mut kept = headers.clone();
        remove_hop_by_hop(&mut kept);
        self.take_tags_off(&mut kept);
        for name in &verdict.without {
            kept.remove(name);
        }
        // Who receives an answer without a date gives it one (RFC 9110 section 6.6.1).
        kept.entry(header::DATE)
            .or_insert_with(|| date::format(times.received_wall));
        // Room for what each hit writes: a map that grows is copied.
        kept.insert(header::AGE, HeaderValue::from_static("0"));
        kept.insert(CACHE_STATUS, HeaderValue::from_static(""));
        kept
    }

    /// Says that the next one's coding may be another one, where that is so.
    fn negotiates(fill: &Fill, headers: &mut HeaderMap) {
        if fill.packer.is_some() {
            packing::vary_by_coding(headers);
        }
    }

    fn take_tags_off(&self, headers: &mut HeaderMap) {
        for name in &self.config.rules.tag_headers {
            headers.remove(name);
        }
    }

    fn retain(&self, verdict: &Verdict) -> std::time::Duration {
        let of_use_when_stale = verdict.has_validator || self.config.rules.stale_on_error;
        entry::retain(
            &verdict.freshness,
            of_use_when_stale,
            self.config.validated_for,
        )
    }

    /// Tells those who wait what became of the answer.
    fn land(&self, look: &mut Look, landing: Landing) {
        if let Some(lead) = look.lead.take() {
            lead.land(landing, self.config.clock.now());
        }
    }

    /// Returns whether a stale answer may stand in for a failing handler.
    fn may_stand_in(&self, look: &Look, stale: &Stale) -> bool {
        let freshness = &stale.entry.freshness;
        if freshness.never_stale || freshness.always_validate {
            return false;
        }
        let stale_secs = -freshness.ttl_secs(self.config.clock.now());
        let allowed = freshness
            .if_error_secs
            .max(look.asks.stale_if_error_secs.unwrap_or(0));
        self.config.rules.stale_on_error || stale_secs <= i64::from(allowed)
    }

    fn hit(
        &self,
        entry: &StoredResponse,
        asked: &HeaderMap,
        reason: Option<Reason>,
    ) -> Response<Bytes> {
        let Plan::Look(look) = &self.plan else {
            return Response::default();
        };
        let now = look.asked_at;
        let (plain, selective) = (look.plain.as_ref(), look.selective.then_some(asked));
        let response = answer::respond(entry, plain, selective, look.head_only, now);
        let report = Report::hit(CacheSource::Hit, entry.freshness.ttl_secs(now));
        let mut report = report.reason(reason);
        if look.collapsed {
            report.forward = Some(Forward::UriMiss);
            report.collapsed = true;
        }
        self.reported(report, response)
    }

    fn stale(
        &self,
        entry: &StoredResponse,
        asked: &HeaderMap,
        status: Option<StatusCode>,
    ) -> Response<Bytes> {
        let Plan::Look(look) = &self.plan else {
            return Response::default();
        };
        self.stale_for(look, entry, asked, status)
    }

    /// Answers with what is stale; `status` is what the handler answered, if it did.
    fn stale_for(
        &self,
        look: &Look,
        entry: &StoredResponse,
        asked: &HeaderMap,
        status: Option<StatusCode>,
    ) -> Response<Bytes> {
        let now = self.config.clock.now();
        let (plain, selective) = (look.plain.as_ref(), look.selective.then_some(asked));
        let response = answer::respond(entry, plain, selective, look.head_only, now);
        let mut report = Report::hit(CacheSource::Stale, entry.freshness.ttl_secs(now));
        if status.is_some() {
            report.forward = Some(look.forward);
            report.forward_status = status;
        }
        self.reported(report, response)
    }

    /// Answers a client that wants an answer from the store or none (RFC 9111 section 5.2.1.7).
    fn not_cached(&self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::GATEWAY_TIMEOUT;
        let report = Report {
            forward: None,
            ..Report::forwarded(CacheSource::Miss, Forward::UriMiss)
        };
        self.reported(report.reason(Reason::OnlyIfCached), response)
    }

    /// Adds to a response, and to the record, what the cache did.
    fn reported<B>(&self, report: Report, mut response: Response<B>) -> Response<B> {
        let shown_key = self.key_hash.filter(|_| self.config.shows_key);
        let headers = response.headers_mut();
        // What is stored has an empty place for it.
        let place = headers
            .get_mut(CACHE_STATUS)
            .filter(|value| value.is_empty());
        match (&self.config.name, place) {
            (Some(name), Some(place)) => *place = report.to_value(name, shown_key),
            (Some(name), None) => {
                headers.append(CACHE_STATUS, report.to_value(name, shown_key));
            }
            (None, Some(_)) => {
                headers.remove(CACHE_STATUS);
            }
            (None, None) => {}
        }
        if let Some(record) = &self.record {
            let mut outcome = report.to_outcome();
            outcome.key_hash = self.key_hash;
            record.set_cache(outcome.clone());
            response.extensions_mut().insert(outcome);
        }
        response
    }
}

impl Keep {
    /// Asks the store for a fence that is later than the purge that the answer itself has brought.
    pub(super) fn ask(&self) -> StoreFuture<Lookup> {
        let (config, look) = (&self.exchange.config, &self.as_got.look);
        let Some(key) = look.key() else {
            return StoreFuture::failed(StoreErrorKind::NotFound);
        };
        let asked = look.asked_fields();
        let selection = Selection::new(&asked, config.keys.variants());
        let answer = config.store.get(&key, &selection);
        let answer = config.deadline.bound(answer);
        config.watch.over(answer, || None)
    }

    /// Lets the answer through, and keeps what passes, unless it was purged by another one since
    /// the request came: the answer may be older than what that was for.
    pub(super) fn conclude<B>(
        self,
        asked: Result<Lookup, StoreError>,
        mut response: Response<CacheBody<B>>,
    ) -> Response<CacheBody<B>>
    where
        B: Body<Data = Bytes> + Send + 'static,
    {
        let (exchange, mut look) = (self.exchange, self.as_got.look);
        let fill = match asked {
            Ok(_) if exchange.config.purges.of(&self.as_got.uri) != self.as_got.purges_seen + 1 => {
                Err(Some(Reason::Purged))
            }
            Ok(lookup) => {
                look.fence = Some(lookup.fence);
                exchange.filling(&look, &response)
            }
            Err(_) => Err(Some(Reason::Store)),
        };
        exchange.take_tags_off(response.headers_mut());
        let mut report = Report::forwarded(CacheSource::Bypass, Forward::Method);
        match fill {
            Err(reason) => exchange.reported(report.reason(reason), response),
            Ok(mut fill) => {
                let freshness = &fill.head.freshness;
                report.stored = true;
                report.ttl_secs = Some(freshness.ttl_secs(freshness.received_at));
                fill.record.clone_from(&exchange.record);
                Exchange::negotiates(&fill, response.headers_mut());
                let response = exchange.reported(report, response);
                response.map(|body| body.filled(fill))
            }
        }
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

    /// Returns what the application wants of an answer.
    fn wanted<'a, B>(&'a self, response: &'a Response<B>) -> Wanted<'a> {
        Wanted {
            by_answer: response.extensions().get(),
            by_route: self.policy.as_ref(),
        }
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

    /// Returns whether the answer to this request may serve others too.
    fn may_be_waited_for(&self) -> bool {
        !self.head_only && !self.selective && !self.asks.no_store && self.failed.is_none()
    }
}

impl Change {
    /// Lets go of what the answer says has changed, for every caller.
    fn purge<B>(self, config: &Config, response: &Response<B>) -> Option<StoreFuture<()>> {
        if !invalidate::may_have_changed(response.status()) {
            return None;
        }
        let named = invalidate::named_targets(&self.authority, &self.path, response.headers());
        let mut targets = vec![PurgeTarget::Uri(self.uri)];
        targets.extend(
            named
                .iter()
                .map(|uri| PurgeTarget::Uri(config.keys.uri(&Target::plain(&self.authority, uri)))),
        );
        Some(config.purge(&targets, PurgeMode::Hard))
    }

    /// Returns whether an answer is what a GET of the same target would bring (RFC 9110 section
    /// 9.3.3).
    fn is_as_got<B>(&self, response: &Response<B>) -> bool {
        let named = response.headers().get(header::CONTENT_LOCATION);
        let named = named.and_then(|name| name.to_str().ok());
        let named = named.and_then(|name| invalidate::resolve(&self.authority, &self.path, name));
        response.status() == StatusCode::OK
            && named
                .as_ref()
                .and_then(Uri::path_and_query)
                .is_some_and(|named| *named == *self.path_and_query)
    }
}

/// Returns whether a status says that the handler, or what is behind it, fails (RFC 5861 section
/// 4).
fn stands_in_for(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

/// Returns how long a body will be, if that was announced. One that contradicts itself is not
/// kept.
fn expected_bytes<B: Body>(response: &Response<B>) -> Result<Option<u64>, Reason> {
    let mut lines = response.headers().get_all(header::CONTENT_LENGTH).iter();
    let announced = match (lines.next(), lines.next()) {
        (None, _) => None,
        (Some(line), None) => {
            let bytes = line.to_str().ok().and_then(|line| line.parse().ok());
            Some(bytes.ok_or(Reason::Incomplete)?)
        }
        (Some(_), Some(_)) => return Err(Reason::Incomplete),
    };
    match (announced, response.body().size_hint().exact()) {
        (Some(announced), Some(exact)) if announced != exact => Err(Reason::Incomplete),
        (announced, exact) => Ok(announced.or(exact)),
    }
}
