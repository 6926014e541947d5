//! One request past the store: what the handler is asked, and what its response does to the store.

use std::{mem, sync::Arc, task::Context};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body::Body;

use super::{
    body::CacheBody,
    replaced::Replaced,
    writer::{Fill, Head},
};
use crate::{
    cache::{
        config::Config,
        entry::{
            entry::{self, StoredResponse, compact, remove_hop_by_hop},
            key::{CacheKey, Partition, Target},
            packing,
        },
        http::{
            cache_status::{CACHE_STATUS, Forward, Report},
            content_range::{self, Place},
            date,
            freshness::Times,
            invalidation,
            lines::Lines,
            preconditions,
            revalidation::{self, Comparison},
            storability::{Caller, Seen, Verdict, Wanted, is_explicit, judge},
            vary::Selection,
        },
        lookup::{
            assured::assured,
            plan::{AsGot, Asked, Change, Collapsing, Look, Plan, Question, RequestLine, Stale},
            reason::Reason,
            response,
            search::Search,
            shown::Told,
            single_flight::{Landing, Lead, Wait},
            storable::Storable,
        },
        policy::CachePolicy,
        store::{Fence, Found, Lookup, PurgeMode, PurgeTarget, Touch},
        tags::{self, CacheTags},
    },
    core::{
        audit::AuditEvent,
        error::{BoxError, StoreError, StoreErrorKind},
        record::{CacheSource, RecordHandle},
        store_api::{store_future::StoreFuture, store_key::StoreKey},
        time::Timestamp,
    },
};

/// The next step after a response of the handler.
pub(crate) enum Conclusion<B: Body> {
    /// It is the client's, once the store has taken note of it.
    Send(Response<CacheBody<B>>, Option<Settling>),
    /// Its body is read and stored first: the client is answered from the store, as all who wait are.
    Read(Exchange, CacheBody<B>, Wait),
    /// It answers nothing: the handler is asked again, otherwise.
    AskAgain(Exchange),
    /// Another response has been stored while the handler was asked: it is looked up first, as this one
    /// may invalidate it.
    LookUp(Exchange, Response<B>, StoreFuture<Lookup>),
    /// The origin failed. A stale response stands in, if the store still has it.
    StandIn(StandIn, Response<CacheBody<B>>),
}

/// A request for which a stale response may stand in.
pub(crate) struct StandIn {
    exchange: Exchange,
    asked: Box<Asked>,
    /// The status of the origin's response, if it returned one.
    status: Option<StatusCode>,
}

/// The effect of a response on the stored one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// The stored response is still valid.
    Confirms,
    /// It is a `304` for another version than the stored one.
    Contradicts,
    /// The origin failed, and the stored response may stand in.
    MayStandIn,
    /// Nothing.
    Nothing,
    /// The stored response is no longer the origin's last word.
    Replaces,
}

/// One request past the store, and its response.
pub(crate) struct Exchange {
    pub(crate) config: Arc<Config>,
    record: Option<RecordHandle>,
    course: Course,
}

/// The work of the cache beside the handler.
enum Course {
    /// Nothing.
    Pass(Forward, Reason),
    /// The stored responses that the request may change are purged.
    Change(Box<Change>),
    /// The answer may be kept.
    Look(Box<Asked>),
}

/// The writes to the store that must end before the client is sent a response.
pub(crate) struct Settling {
    pub(crate) settled: StoreFuture<()>,
    /// Whether the answer is kept after that.
    pub(crate) keep: Option<Box<Keep>>,
}

/// An answer to a POST that is kept for GET, once the purge is done that it brings itself.
pub(crate) struct Keep {
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
    /// Goes past the store with a request.
    #[inline(always)]
    pub(crate) fn past<B>(config: &Arc<Config>, plan: Plan, request: &Request<B>) -> Self {
        let course = match plan {
            Plan::Pass(forward, reason) => Course::Pass(forward, reason),
            Plan::Change(change) => Course::Change(change),
            // Made where it stays: it is large.
            Plan::Look(look) => Course::Look(Box::write(Box::new_uninit(), Asked::new(look))),
        };
        Self {
            config: Arc::clone(config),
            record: RecordHandle::of(request.extensions()).cloned(),
            course,
        }
    }

    /// Returns to the store, if that has been asked.
    pub(crate) fn search(&mut self) -> Option<Search<'_>> {
        match &mut self.course {
            Course::Look(asked) => Some(Search {
                config: &self.config,
                look: &mut asked.look,
            }),
            Course::Pass(..) | Course::Change(_) => None,
        }
    }

    /// Prepares the call of the handler.
    pub(crate) fn prepare<B: 'static>(&mut self, request: &mut Request<B>) {
        let Course::Look(asked) = &mut self.course else {
            return;
        };
        // A refresh in the background does not belong to the request's record.
        if asked.look.refreshes {
            self.record = None;
        }
        if asked.look.failed.is_some() {
            asked.look.question = Question::AsIs;
            return;
        }
        asked.fields.keep(request.headers());
        let can_repeat = self.config.empty_bodies.can_make::<B>();
        let question = asked.look.next_question(&self.config, can_repeat);
        asked.pose(question, can_repeat, request);
    }

    /// Returns the client's request once more.
    pub(crate) fn client_request<B: 'static>(&self) -> Option<Request<B>> {
        match &self.course {
            Course::Look(asked) => asked.request(&self.config),
            Course::Pass(..) | Course::Change(_) => None,
        }
    }

    /// Prepares another call of the handler, and returns the request for it.
    pub(crate) fn ask_again<B: 'static>(&mut self) -> Option<Request<B>> {
        let Course::Look(asked) = &mut self.course else {
            return None;
        };
        let mut request = asked.request(&self.config)?;
        let question = asked.look.question;
        asked.pose(question, false, &mut request);
        Some(request)
    }

    /// Returns whether the handler may have to be asked again.
    pub(crate) fn may_ask_again(&self) -> bool {
        matches!(&self.course, Course::Look(asked) if asked.again.is_some())
    }

    fn take_course(&mut self) -> Course {
        mem::replace(&mut self.course, Course::Pass(Forward::Bypass, Reason::Off))
    }

    fn told<'a>(&'a self, look: Option<&'a Look>) -> Told<'a> {
        Told {
            config: &self.config,
            record: self.record.as_ref(),
            key: look.and_then(Look::first_key),
            waited: look.and_then(|look| look.waited),
        }
    }

    /// Takes the handler's response.
    pub(crate) fn conclude<B>(
        mut self,
        mut response: Response<B>,
        cx: &mut Context<'_>,
    ) -> Conclusion<B>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Send,
    {
        match self.take_course() {
            Course::Pass(forward, reason) => {
                self.take_tags_off(response.headers_mut());
                let report = Report::forwarded(CacheSource::Bypass, forward).reason(reason);
                self.told(None).report(report, &mut response);
                Conclusion::Send(response.map(CacheBody::inner), None)
            }
            Course::Change(change) => {
                let (response, settling) = self.conclude_change(*change, response);
                Conclusion::Send(response, settling)
            }
            Course::Look(asked) => self.conclude_look(asked, response, cx),
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
            let times = self.times(&as_got.asked.look);
            change.is_as_got(&response)
                && is_explicit(&self.config.rules, response.headers(), &times)
        });
        let settled = change.purge(&self.config, &response);
        let settled = settled.map(|purge| {
            let purge = assured(&self.config, purge, drop);
            let purge = self.config.deadline.bound(purge);
            self.config.watch.over(purge, || self.record.clone())
        });
        let mut response = response.map(CacheBody::inner);
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
                self.take_tags_off(response.headers_mut());
                let report = Report::forwarded(CacheSource::Bypass, Forward::Method);
                self.told(None).report(report, &mut response);
                (response, settled.map(Settling::from))
            }
        }
    }

    fn conclude_look<B>(
        self,
        mut asked: Box<Asked>,
        mut response: Response<B>,
        cx: &mut Context<'_>,
    ) -> Conclusion<B>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Send,
    {
        if let Some(found) = self.look_up_stored_since(&mut asked, response.status()) {
            return Conclusion::LookUp(self.with(asked), response, found);
        }
        let Some(stale) = asked.look.stale.clone() else {
            self.note_failure(&mut asked.look, response.status());
            let replaced = replaced_part(&asked.look, response.status());
            return self.fill(asked, response, replaced, cx);
        };
        let unconfirmed = asked.unconfirmed.take();
        let is_other = unconfirmed.is_some();
        if let Some(fields) = unconfirmed
            && response.status().as_u16() >= 600
        {
            // A status out of range answers nothing (RFC 9110 section 15): the `304` stands.
            *response.headers_mut() = *fields;
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return self.revalidated(asked, &stale, &response);
        }
        let effect = match self.effect(&asked.look, &stale, &response) {
            // The `304` before it has named another version, which the origin cannot send now.
            Effect::MayStandIn | Effect::Nothing if is_other => Effect::Replaces,
            effect => effect,
        };
        if !matches!(effect, Effect::MayStandIn | Effect::Nothing) {
            self.config.backoffs.succeeded(stale.key.full());
        }
        match effect {
            Effect::Confirms => self.revalidated(asked, &stale, &response),
            Effect::Contradicts if asked.again.is_none() => self.unconfirmed(asked, &stale),
            Effect::Contradicts => {
                asked.unconfirmed = Some(Box::new(mem::take(response.headers_mut())));
                self.with(asked).ask_otherwise(Question::Whole)
            }
            Effect::MayStandIn => {
                let status = response.status();
                self.fail(&mut asked.look, "status");
                let response = self.passed(&asked, response, None);
                let stand_in = StandIn {
                    exchange: self,
                    asked,
                    status: Some(status),
                };
                Conclusion::StandIn(stand_in, response)
            }
            Effect::Nothing => {
                self.note_failure(&mut asked.look, response.status());
                self.fill(asked, response, None, cx)
            }
            Effect::Replaces => self.fill(asked, response, Some(Replaced::new(&stale)), cx),
        }
    }

    /// Looks up what another request has stored since the store was asked for this one, unless the
    /// response says nothing of it.
    fn look_up_stored_since(
        &self,
        asked: &mut Asked,
        status: StatusCode,
    ) -> Option<StoreFuture<Lookup>> {
        let (config, look) = (&self.config, &mut asked.look);
        // Mostly nothing at all has been stored since.
        let now = config.order.now();
        if (now == look.shared_looked_up && now == look.own_looked_up)
            || look.failed.is_some()
            || !look.is_last_word(status)
        {
            return None;
        }
        let key = look.take_stored_since(config)?;
        let fields = asked.fields.to_map();
        let selection = Selection::new(&fields, config.keys.variants());
        Some(config.deadline.bound(config.store.get(&key, &selection)))
    }

    /// Takes the stored response that a response may invalidate, and concludes with that response.
    pub(crate) fn conclude_after<B>(
        mut self,
        found: Result<Lookup, StoreError>,
        response: Response<B>,
        cx: &mut Context<'_>,
    ) -> Conclusion<B>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Send,
    {
        if let Course::Look(asked) = &mut self.course
            && let Some(key) = asked.look.key().copied()
            && let Ok(lookup) = found
        {
            let before = mem::replace(&mut asked.look.stale, Stale::found(key, lookup));
            if let Some(other) = before.filter(|before| before.key != key) {
                Replaced::new(&other).invalidate_before(&self.config, || {});
            }
        }
        self.conclude(response, cx)
    }

    /// Returns what a response says of the stored one.
    fn effect<B>(&self, look: &Look, stale: &Stale, response: &Response<B>) -> Effect {
        let status = response.status();
        if look.question == Question::Validate && status == StatusCode::NOT_MODIFIED {
            return match revalidation::compare(response.headers(), &stale.entry.headers) {
                Comparison::Same | Comparison::Unknown => Effect::Confirms,
                Comparison::Other => Effect::Contradicts,
            };
        }
        if stands_in_for(status) {
            return match look.may_stand_in(&self.config, stale) {
                true => Effect::MayStandIn,
                false => Effect::Nothing,
            };
        }
        match (look.question, status.as_u16()) {
            (_, 100..=199) => Effect::Nothing,
            // The response to the client's own condition, range or expectation.
            (Question::AsIs, 412 | 416 | 417) => Effect::Nothing,
            (Question::AsIs, 206 | 304) => {
                match content_range::compare(response.headers(), &stale.entry) {
                    // It may be of another version: what is stale is not served any more.
                    Comparison::Unknown if look.forward == Forward::Stale => Effect::Replaces,
                    Comparison::Same | Comparison::Unknown => Effect::Nothing,
                    Comparison::Other => Effect::Replaces,
                }
            }
            (Question::AsIs, 200) if look.head_only => {
                match revalidation::compare_head(response.headers(), &stale.entry.headers) {
                    // A purged response is confirmed by a GET alone.
                    Comparison::Same if !stale.expired => Effect::Confirms,
                    Comparison::Same | Comparison::Unknown => Effect::Nothing,
                    Comparison::Other => Effect::Replaces,
                }
            }
            (Question::AsIs | Question::Whole | Question::Validate, _) => Effect::Replaces,
        }
    }

    /// Sends the stored response for the last time: the origin has another version, and cannot be asked
    /// for it.
    fn unconfirmed<B: Body>(self, mut asked: Box<Asked>, stale: &Stale) -> Conclusion<B> {
        let invalidated = Replaced::new(stale).invalidate(&self.config);
        let settling = Some(self.settle(invalidated));
        let settling = land_after(settling, asked.look.lead.take(), Landing::NotStored);
        let response = self.stale(&asked, &stale.entry, Some(StatusCode::NOT_MODIFIED));
        Conclusion::Send(response.map(CacheBody::stored), settling)
    }

    fn with(mut self, asked: Box<Asked>) -> Self {
        self.course = Course::Look(asked);
        self
    }

    /// Asks the handler again, otherwise.
    fn ask_otherwise<B: Body>(mut self, question: Question) -> Conclusion<B> {
        if let Course::Look(asked) = &mut self.course {
            asked.look.question = question;
        }
        Conclusion::AskAgain(self)
    }

    /// Takes an error of the handler. Returns the request, if a stale response may stand in.
    pub(crate) fn rescue(mut self) -> Option<StandIn> {
        let Course::Look(mut asked) = self.take_course() else {
            return None;
        };
        let lead = match asked.unconfirmed {
            Some(_) => asked.look.lead.take(),
            None => None,
        };
        self.fail(&mut asked.look, "error");
        let stale = asked.look.stale.as_ref()?;
        if asked.unconfirmed.is_some() {
            // A `304` has named another version, which the origin cannot send now.
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

    /// Notes that the origin failed: it is left alone for a while where a stale response may stand in.
    /// Otherwise one of those who wait asks it once more, and all are released together if that fails
    /// too.
    fn fail(&self, look: &mut Look, cause: &'static str) {
        let now = self.config.clock.coarse();
        let is_last_try = cause != "error" || look.waited.is_some();
        let landing = match &look.stale {
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
        if look.refreshes {
            self.config.audit.tell(|| AuditEvent::CacheRefreshFailed {
                cause: cause.into(),
            });
        }
        if let Some(lead) = look.lead.take() {
            lead.land(landing);
        }
    }

    fn note_failure(&self, look: &mut Look, status: StatusCode) {
        if stands_in_for(status) {
            self.fail(look, "status");
        }
    }

    /// Notes that a refresh in the background took too long.
    pub(crate) fn refresh_timed_out(config: &Config, stale: &Stale) {
        let now = config.clock.coarse();
        config.backoffs.failed(stale.key.full(), now);
        config.audit.tell(|| AuditEvent::CacheRefreshFailed {
            cause: "timeout".into(),
        });
    }

    /// Returns the stale response that a refresh in the background is for.
    pub(crate) fn refreshed(&self) -> Option<Stale> {
        match &self.course {
            Course::Look(asked) => asked.look.stale.clone(),
            Course::Pass(..) | Course::Change(_) => None,
        }
    }

    /// Remembers for all callers whether the responses of a URL and its route can be stored.
    fn remember(&self, look: &Look, storable: Storable, now: Timestamp) {
        if let Some(key) = look.first_key() {
            let memory = &self.config.storable;
            memory.set(key.uri(), look.route.as_ref(), storable, now);
        }
    }

    /// Sends the stored response, which the origin has confirmed by a `304`, or by the response to a
    /// HEAD.
    fn revalidated<B: Body>(
        self,
        mut asked: Box<Asked>,
        stale: &Stale,
        answer: &Response<B>,
    ) -> Conclusion<B> {
        let look = &mut asked.look;
        let fresh = answer.headers();
        let mut headers = revalidation::merged(&stale.entry.headers, fresh);
        self.take_tags_off(&mut headers);
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
        let wanted = wanted(look, answer);
        let seen = Seen::of(&dated, rules);
        let verdict = judge(rules, &look.caller, status, &seen, &wanted, &times);
        let verdict = verdict.and_then(|verdict| stays(look, stale, verdict));
        let mut entry = StoredResponse {
            headers,
            ..(*stale.entry).clone()
        };
        let write = match &verdict {
            Ok(verdict) => {
                entry.headers = compact(&self.kept_headers(&dated, verdict, &times));
                self.confirm(look, stale, &mut entry, verdict, answer)
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
        let lead = look.lead.take();
        let now = self.config.clock.now();
        let report = Report {
            forward: Some(look.forward),
            forward_status: Some(answer.status()),
            stored,
            ..Report::hit(CacheSource::Revalidated, entry.freshness.ttl_secs(now))
        };
        let report = report.reason(verdict.err());
        let (look, fields) = (&asked.look, asked.fields.to_map());
        let response = self
            .told(Some(look))
            .stored(&entry, look, &fields, now, report);
        let settling = land_after(write, lead, landing);
        Conclusion::Send(response.map(CacheBody::stored), settling)
    }

    /// Stores what a confirmation has changed in the head of a stored response.
    fn confirm<B>(
        &self,
        look: &Look,
        stale: &Stale,
        entry: &mut StoredResponse,
        verdict: &Verdict,
        answer: &Response<B>,
    ) -> Option<StoreFuture<()>> {
        entry.freshness = self.config.jitter.shorten(verdict.freshness, &stale.key);
        entry.says_shared = verdict.says_shared;
        let tags = self.tags(answer);
        if !tags.is_empty() {
            entry.tags = tags;
        }
        let fence = look.fence?;
        self.config.order.confirm(stale.key.full());
        Some(self.touch(Touch {
            key: stale.key,
            entry: Arc::new(entry.clone()),
            stamp: stale.stamp,
            fence,
            retain: self.retain(verdict),
        }))
    }

    /// Takes a stored response from the other clients: it is confirmed for this one, and no longer for
    /// them.
    fn no_longer_shared(&self, stale: &Stale, reason: Reason) -> StoreFuture<()> {
        let replaced = Replaced::new(stale);
        self.settle(match reason == Reason::NoStore {
            true => replaced.invalidate(&self.config),
            false => replaced.demote(&self.config),
        })
    }

    fn touch(&self, touch: Touch) -> StoreFuture<()> {
        match self.config.store.touch(touch).into_ready() {
            // One that was replaced meanwhile stays as it is.
            Ok(touched) => self.settle(touched.map(drop).into()),
            Err(pending) => self.settle(StoreFuture::pending(async { pending.await.map(drop) })),
        }
    }

    /// Bounds and watches a write that the client waits for.
    fn settle(&self, write: StoreFuture<()>) -> StoreFuture<()> {
        let write = self.config.deadline.bound(write);
        self.config.watch.over(write, || self.record.clone())
    }

    /// Passes a response to the client, and stores it if it may be stored.
    fn fill<B>(
        self,
        mut asked: Box<Asked>,
        mut response: Response<B>,
        replaced: Option<Replaced>,
        cx: &mut Context<'_>,
    ) -> Conclusion<B>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Send,
    {
        let times = self.times(&asked.look);
        let now = times.received_at;
        let seen = Seen::of(response.headers(), &self.config.rules);
        let has_tags = seen.tags;
        let filling = self.filling(&asked, &response, &seen, &times);
        if has_tags {
            self.take_tags_off(response.headers_mut());
        }
        let mut fill = match filling {
            Ok(fill) => fill,
            Err(reason) => return self.not_stored(asked, response, reason, replaced, now),
        };
        let look = &mut asked.look;
        self.config.backoffs.succeeded(fill.head.key.full());
        self.remember(
            look,
            match fill.head.is_shared || look.shared.is_none() {
                true => Storable::Shared,
                false => Storable::Own,
            },
            now,
        );
        self.hand_over(look, &mut fill);
        let mut settling = None;
        let mut replaced = replaced.map(Box::new);
        if let Some(other) =
            replaced.take_if(|replaced| !replaced.is_at(&fill.head.key, &fill.head.variant))
        {
            settling = Some(self.settle(other.invalidate(&self.config)));
        }
        fill.replaced.clone_from(&replaced);
        if look.is_selective() && look.question != Question::AsIs {
            let is_first = matches!(look.collapsing, Collapsing::Open | Collapsing::Collapsed);
            if is_first && asked.again.is_some() {
                return self.read(asked, response, fill, cx);
            }
            if !wants_body(&asked, &response) {
                drop(fill);
                let response = self.passed(&asked, response, Some(Reason::Incomplete));
                return Conclusion::Send(response, settling.map(Settling::from));
            }
        }
        let look = &asked.look;
        self.report_stored(look, &mut fill, &mut response);
        let response = response.map(|body| CacheBody::filling(body, fill, cx));
        // The client is sent a newer head: no later request is sent what is older than that.
        if let Some(replaced) = replaced
            && response.body().is_filling()
            && !look.refreshes
        {
            settling = Some(self.settle(replaced.demote(&self.config)));
        }
        Conclusion::Send(response, settling.map(Settling::from))
    }

    /// Hands the flight that a request leads over to its response.
    fn hand_over(&self, look: &mut Look, fill: &mut Fill) {
        fill.route = look.route;
        match look.lead.take() {
            Some(lead) if look.lead_key() == Some(fill.head.key) => {
                fill.lead = Some(lead);
                fill.lease = look.leasing.hand_over();
            }
            // Those who wait look for their own response from now on.
            Some(lead) => {
                fill.lead = self.config.flights.lead(fill.head.key.full());
                lead.land(other_partition(look));
            }
            None => {}
        }
    }

    /// Adds to a response that is being stored what the cache does.
    fn report_stored<B>(&self, look: &Look, fill: &mut Fill, response: &mut Response<B>) {
        let freshness = &fill.head.freshness;
        let mut report = Report::forwarded(CacheSource::Miss, look.forward);
        report.stored = true;
        report.ttl_secs = Some(freshness.ttl_secs(freshness.received_at));
        report.forward_status = look.forward_status(response.status());
        fill.record.clone_from(&self.record);
        Self::negotiates(fill, response.headers_mut());
        self.told(Some(look)).report(report, response);
    }

    /// Reads a body into the store, for a client that wants a part of it, a comparison, or its head.
    fn read<B>(
        self,
        mut asked: Box<Asked>,
        response: Response<B>,
        mut fill: Fill,
        cx: &mut Context<'_>,
    ) -> Conclusion<B>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Send,
    {
        let (flights, key) = (&self.config.flights, fill.head.key);
        let lead = fill
            .lead
            .get_or_insert_with(|| flights.detached(key.full()));
        let wait = lead.wait();
        asked.look.collapsing = Collapsing::Filled(asked.look.forward);
        let body = CacheBody::filling(response.into_body(), fill, cx);
        Conclusion::Read(self.with(asked), body, wait)
    }

    /// Passes a response that is not stored.
    fn not_stored<B>(
        self,
        mut asked: Box<Asked>,
        response: Response<B>,
        reason: Option<Reason>,
        replaced: Option<Replaced>,
        now: Timestamp,
    ) -> Conclusion<B>
    where
        B: Body<Data = Bytes> + Send + 'static,
    {
        let look = &mut asked.look;
        let invalidated = replaced.map(|replaced| replaced.invalidate(&self.config));
        let settling = invalidated.map(|write| self.settle(write));
        // A part, a comparison or a head does not tell whether a whole response could be stored; nor
        // does a client that wants nothing stored, or a store that fails.
        let is_whole = look.question != Question::AsIs || !look.is_selective();
        let tells = is_whole && !look.asks.no_store && look.failed.is_none();
        let landing = match tells {
            true => Landing::NotStored,
            false => Landing::Abandoned,
        };
        if tells {
            self.remember(look, Storable::No, now);
        }
        if look.is_last_word(response.status()) {
            for key in [&look.shared, &look.own].into_iter().flatten() {
                self.config.order.refuse_before_now(key.full());
            }
        }
        let settling = land_after(settling, look.lead.take(), landing);
        let wants_part = look.wants_part && look.question != Question::AsIs;
        if wants_part && response.status() == StatusCode::OK && asked.again.is_some() {
            let look = &mut asked.look;
            look.collapsing = Collapsing::Alone;
            look.stale = None;
            return self.with(asked).ask_otherwise(Question::AsIs);
        }
        Conclusion::Send(self.passed(&asked, response, reason), settling)
    }

    /// Makes the client's response of one that is not stored.
    #[inline(always)]
    fn passed<B>(
        &self,
        asked: &Asked,
        response: Response<B>,
        reason: Option<Reason>,
    ) -> Response<CacheBody<B>>
    where
        B: Body<Data = Bytes> + Send + 'static,
    {
        let look = &asked.look;
        let source = match look.failed {
            Some(kind) => CacheSource::StoreFailed(kind),
            None => CacheSource::Miss,
        };
        let mut report = Report::forwarded(source, look.forward).reason(reason);
        report.forward_status = look.forward_status(response.status());
        let mut response = match look.is_selective() && look.question != Question::AsIs {
            true => selected(asked, response),
            false => response.map(CacheBody::inner),
        };
        self.told(Some(look)).report(report, &mut response);
        response
    }

    /// Begins to store an answer, or says why it is not kept.
    fn filling<B>(
        &self,
        asked: &Asked,
        response: &Response<B>,
        seen: &Seen<'_>,
        times: &Times<'_>,
    ) -> Result<Fill, Option<Reason>>
    where
        B: Body<Data = Bytes> + Send + 'static,
    {
        let look = &asked.look;
        if look.failed.is_some() {
            return Err(Some(Reason::Store));
        }
        let is_head = look.head_only && look.question == Question::AsIs;
        let Some(fence) = look.fence.filter(|_| !is_head) else {
            return Err(None);
        };
        if look.asks.no_store {
            return Err(Some(Reason::RequestDirective));
        }
        let rules = &self.config.rules;
        let mut expected_bytes = expected_bytes(seen, response.body())?;
        let place = self.place(look, response, expected_bytes)?;
        let status = match place {
            // A part is kept as a `200` that is not complete.
            Some(_) => StatusCode::OK,
            None => response.status(),
        };
        let wanted = wanted(look, response);
        let verdict = judge(rules, &look.caller, status, seen, &wanted, times)?;
        expected_bytes = place.map_or(expected_bytes, |place| Some(place.len() as u64));
        if expected_bytes.is_some_and(|bytes| bytes > rules.body_bytes_max) {
            return Err(Some(Reason::TooLarge));
        }
        let mut head = self.head(asked, &verdict, fence, response, times)?;
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
        let part = look.part.as_ref().filter(|_| place.is_some());
        fill.part = part.map(|part| Arc::clone(&part.entry));
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
        asked: &Asked,
        verdict: &Verdict,
        fence: Fence,
        response: &Response<B>,
        times: &Times<'_>,
    ) -> Result<Head, Option<Reason>> {
        let look = &asked.look;
        let (key, partition) = match (&look.caller, verdict.shared) {
            (Caller::Known { digest, .. }, false) => (look.own, Partition::Own(digest)),
            (_, true) | (Caller::Anonymous | Caller::Unvouched, false) => {
                (look.shared, Partition::Shared)
            }
        };
        let config = &self.config;
        let fields = match verdict.vary.is_empty() {
            true => HeaderMap::new(),
            false => asked.fields.to_map(),
        };
        let variant = Selection::new(&fields, config.keys.variants()).variant(&verdict.vary);
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
        let fields = self.config.rules.tag_headers.as_slice();
        let named = response.extensions().get::<CacheTags>();
        tags::each(response.headers(), fields, named, |tag| {
            keys.push(self.config.keys.tag(tag));
        });
        keys
    }

    fn times(&self, look: &Look) -> Times<'_> {
        Times {
            asked_at: look.asked_at,
            received_at: self.config.clock.coarse(),
            clock: &*self.config.clock,
        }
    }

    /// Returns the fields that are kept of an answer.
    fn kept_headers(&self, headers: &HeaderMap, verdict: &Verdict, times: &Times<'_>) -> HeaderMap {
        let others = headers.get_all(CACHE_STATUS).iter();
        let others: Vec<_> = others.filter(|line| !line.is_empty()).cloned().collect();
        let mut kept = headers.clone();
        remove_hop_by_hop(&mut kept);
        self.take_tags_off(&mut kept);
        for name in &verdict.without {
            kept.remove(name);
        }
        // Who receives an answer without a date gives it one (RFC 9110 section 6.6.1).
        kept.entry(header::DATE)
            .or_insert_with(|| date::format(times.clock.wall()));
        // Room for what each hit writes: a map that grows is copied.
        kept.insert(header::AGE, HeaderValue::from_static("0"));
        kept.insert(CACHE_STATUS, HeaderValue::from_static(""));
        // What caches behind this one said stays, and stands first (RFC 9211 section 2).
        for (number, line) in others.into_iter().enumerate() {
            match number {
                0 => drop(kept.insert(CACHE_STATUS, line)),
                _ => drop(kept.append(CACHE_STATUS, line)),
            }
        }
        kept
    }

    /// Says that the next one's coding may be another one, where that is so.
    fn negotiates(fill: &Fill, headers: &mut HeaderMap) {
        if fill.packer.is_some() {
            packing::vary_by_coding(headers);
        }
    }

    fn take_tags_off(&self, headers: &mut HeaderMap) {
        let names = &self.config.rules.tag_headers;
        if headers.keys().any(|name| names.contains(name)) {
            for name in names.as_slice() {
                headers.remove(name);
            }
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
}

impl StandIn {
    /// Looks up whether the stale response is still stored.
    pub(crate) fn look_up(&self) -> StoreFuture<Lookup> {
        let config = &self.exchange.config;
        let Some(stale) = &self.asked.look.stale else {
            return StoreFuture::failed(StoreErrorKind::NotFound);
        };
        let fields = self.asked.fields.to_map();
        let selection = Selection::new(&fields, config.keys.variants());
        let selection = selection.with_hint(&stale.entry.vary);
        let found = config.store.get(&stale.key, &selection);
        config.deadline.bound(found)
    }

    /// Sends the stale response, unless it was replaced or purged while the origin was asked. A store
    /// that fails has the last word that it had.
    pub(crate) fn conclude(mut self, found: Result<Lookup, StoreError>) -> Option<Response<Bytes>> {
        let mut stale = self.asked.look.stale.take()?;
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
    /// Sends a stale response; `status` is that of the origin's response, if it returned one.
    fn stale(
        &self,
        asked: &Asked,
        entry: &StoredResponse,
        status: Option<StatusCode>,
    ) -> Response<Bytes> {
        let (look, now) = (&asked.look, self.config.clock.now());
        let mut report = Report::hit(CacheSource::Stale, entry.freshness.ttl_secs(now));
        if status.is_some() {
            report.forward = Some(look.forward);
            report.forward_status = status;
        }
        let told = self.told(Some(look));
        told.stored(entry, look, &asked.fields.to_map(), now, report)
    }
}

impl Look {
    /// Decides what the handler is asked.
    ///
    /// A lone HEAD or range is asked for as it is: the whole response would cost the origin more than
    /// the client asked for. Once others wait, it is asked for on behalf of all of them.
    fn next_question(&self, config: &Config, can_repeat: bool) -> Question {
        let leads_waiters = || self.lead.as_ref().is_some_and(Lead::has_waiters);
        let is_alone = matches!(self.collapsing, Collapsing::Alone | Collapsing::Filled(_));
        let is_stored_part = self.wants_part && config.rules.keep_parts;
        let is_lone_part = self.wants_part && !leads_waiters();
        if self.precondition || (self.head_only && !leads_waiters()) {
            Question::AsIs
        } else if self.can_validate() {
            Question::Validate
        } else if !self.is_selective() {
            Question::Whole
        } else if is_alone || is_stored_part || is_lone_part || self.asks.no_store || !can_repeat {
            Question::AsIs
        } else {
            Question::Whole
        }
    }

    /// Returns a key under which another request has stored a response since the store was asked for it,
    /// and goes on to that key; each one once.
    fn take_stored_since(&mut self, config: &Config) -> Option<CacheKey> {
        let order = &config.order;
        let keys = [
            (self.shared, &mut self.shared_looked_up, false),
            (self.own, &mut self.own_looked_up, true),
        ];
        for (key, since, is_own) in keys {
            if let Some(key) = key.filter(|key| order.has_stored_since(key.full(), *since)) {
                *since = order.now();
                self.in_own = is_own;
                return Some(key);
            }
        }
        None
    }

    /// Returns whether a response is the origin's last word on what is stored, whatever that is: no
    /// failure, and no response to the client's own condition or range.
    fn is_last_word(&self, status: StatusCode) -> bool {
        let is_whole = self.question != Question::AsIs;
        match status.as_u16() {
            100..=199 | 304 => false,
            206 | 412 | 416 | 417 => is_whole,
            200 => is_whole || !self.head_only,
            _ => !stands_in_for(status),
        }
    }

    /// Returns the origin's status where the client may be sent another one.
    fn forward_status(&self, status: StatusCode) -> Option<StatusCode> {
        (self.question == Question::Validate).then_some(status)
    }
}

impl Asked {
    /// Makes the request that the handler is sent, and keeps what is needed for another one.
    fn pose<B>(&mut self, question: Question, can_repeat: bool, request: &mut Request<B>) {
        self.look.question = question;
        let may_ask_again = match question {
            Question::AsIs => false,
            Question::Whole => self.look.is_selective(),
            Question::Validate => true,
        };
        if may_ask_again && can_repeat {
            self.again = Some(Box::new(RequestLine {
                method: request.method().clone(),
                uri: request.uri().clone(),
                version: request.version(),
                extensions: request.extensions().clone(),
            }));
        }
        match (question, &self.look.stale) {
            (Question::AsIs, _) => return,
            (Question::Validate, Some(stale)) => {
                revalidation::ask(request, &stale.entry.headers);
            }
            (Question::Whole, _) if !self.look.is_selective() => return,
            (Question::Validate | Question::Whole, _) => revalidation::want_all(request),
        }
        *request.method_mut() = Method::GET;
    }
}

impl Keep {
    /// Asks the store for a fence that is later than the purge that the answer itself has brought.
    pub(crate) fn ask(&self) -> StoreFuture<Lookup> {
        let (config, asked) = (&self.exchange.config, &self.as_got.asked);
        let Some(key) = asked.look.key() else {
            return StoreFuture::failed(StoreErrorKind::NotFound);
        };
        let fields = asked.fields.to_map();
        let selection = Selection::new(&fields, config.keys.variants());
        let answer = config.store.get(key, &selection);
        let answer = config.deadline.bound(answer);
        config.watch.over(answer, || None)
    }

    /// Lets the answer through, and keeps what passes, unless it was purged by another one since
    /// the request came: the answer may be older than what that was for.
    pub(crate) fn conclude<B>(
        self,
        answer: Result<Lookup, StoreError>,
        mut response: Response<CacheBody<B>>,
        cx: &mut Context<'_>,
    ) -> Response<CacheBody<B>>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError> + Send,
    {
        let (exchange, mut asked) = (self.exchange, self.as_got.asked);
        let fill = match answer {
            Ok(_) if exchange.config.purges.of(&self.as_got.uri) != self.as_got.purges_seen + 1 => {
                Err(Some(Reason::Purged))
            }
            Ok(lookup) => {
                asked.look.fence = Some(lookup.fence);
                let seen = Seen::of(response.headers(), &exchange.config.rules);
                exchange.filling(&asked, &response, &seen, &exchange.times(&asked.look))
            }
            Err(_) => Err(Some(Reason::Store)),
        };
        exchange.take_tags_off(response.headers_mut());
        let mut report = Report::forwarded(CacheSource::Bypass, Forward::Method);
        match fill {
            Err(reason) => {
                let report = report.reason(reason);
                exchange.told(None).report(report, &mut response);
                response
            }
            Ok(mut fill) => {
                let freshness = &fill.head.freshness;
                report.stored = true;
                report.ttl_secs = Some(freshness.ttl_secs(freshness.received_at));
                fill.record.clone_from(&exchange.record);
                Exchange::negotiates(&fill, response.headers_mut());
                exchange.told(None).report(report, &mut response);
                response.map(|body| body.filled(fill, cx))
            }
        }
    }
}

impl Change {
    /// Lets go of what the answer says has changed, for every caller.
    fn purge<B>(self, config: &Config, response: &Response<B>) -> Option<StoreFuture<()>> {
        if !invalidation::may_have_changed(response.status()) {
            return None;
        }
        let named = invalidation::named_targets(&self.authority, &self.path, response.headers());
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
        let named = named.and_then(|name| invalidation::resolve(&self.authority, &self.path, name));
        response.status() == StatusCode::OK
            && named
                .as_ref()
                .and_then(Uri::path_and_query)
                .is_some_and(|named| *named == *self.path_and_query)
    }
}

/// Returns how a flight lands whose response is stored in another partition. Where a policy switches
/// collapsing on, those who wait would wait for the same partition again.
fn other_partition(look: &Look) -> Landing {
    let wishes = look.policy.as_ref().map(CachePolicy::wishes);
    match wishes.and_then(|wishes| wishes.collapse) {
        Some(true) => Landing::NotStored,
        Some(false) | None => Landing::Abandoned,
    }
}

/// Returns the stored part that a response replaces: another part, or the response to the client's own
/// condition or range, leaves it.
fn replaced_part(look: &Look, status: StatusCode) -> Option<Replaced> {
    let is_final = !matches!(status.as_u16(), 100..=199 | 206 | 304 | 412 | 416 | 417);
    let part = look.part.as_ref().filter(|_| is_final && !look.head_only)?;
    (!stands_in_for(status)).then(|| Replaced::new(part))
}

/// Returns what is to be made of an answer that was validated, if it belongs where it stands: for no
/// fewer callers, and chosen by no other fields than before.
fn stays(look: &Look, stale: &Stale, verdict: Verdict) -> Result<Verdict, Reason> {
    if look.shared == Some(stale.key) && !verdict.shared {
        Err(Reason::Credential)
    } else if verdict.vary != stale.entry.vary {
        Err(Reason::VaryChanged)
    } else {
        Ok(verdict)
    }
}

/// Returns what the application wants of an answer.
fn wanted<'a, B>(look: &'a Look, response: &'a Response<B>) -> Wanted<'a> {
    Wanted {
        by_answer: response.extensions().get(),
        by_route: look.policy.as_ref(),
    }
}

/// Lands a flight once a write to the store is done: those who wait must see it.
fn land_after(
    write: Option<StoreFuture<()>>,
    lead: Option<Lead>,
    landing: Landing,
) -> Option<Settling> {
    let land = move || {
        if let Some(lead) = lead {
            lead.land(landing);
        }
    };
    match write.map(StoreFuture::into_ready) {
        None | Some(Ok(_)) => {
            land();
            None
        }
        Some(Err(pending)) => Some(Settling::from(StoreFuture::pending(async move {
            let written = pending.await;
            land();
            written
        }))),
    }
}

/// Returns whether the client of a condition, a range or a HEAD is sent the body of a response to a GET
/// for the whole.
fn wants_body<B>(asked: &Asked, response: &Response<B>) -> bool {
    !asked.look.head_only && !is_not_modified(asked, response)
}

fn is_not_modified<B>(asked: &Asked, response: &Response<B>) -> bool {
    response.status() == StatusCode::OK
        && preconditions::is_not_modified(&asked.fields.to_map(), response.headers())
}

/// Makes the response to a condition, or to a HEAD, of the response to a GET for the whole.
fn selected<B: Body>(asked: &Asked, response: Response<B>) -> Response<CacheBody<B>> {
    if is_not_modified(asked, &response) {
        let mut response = response.map(|_| CacheBody::stored(Bytes::new()));
        response::without_content(StatusCode::NOT_MODIFIED, &mut response);
        return response;
    }
    if !asked.look.head_only {
        return response.map(CacheBody::inner);
    }
    let bytes = response.body().size_hint().exact();
    let mut response = response.map(|_| CacheBody::stored(Bytes::new()));
    if let Some(bytes) = bytes {
        let length = response.headers_mut().entry(header::CONTENT_LENGTH);
        length.or_insert_with(|| HeaderValue::from(bytes));
    }
    response
}

/// Returns whether a status says that the origin fails (RFC 5861 section 4).
fn stands_in_for(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

/// Returns how long a body will be, if that was announced. One that contradicts itself is not
/// kept.
fn expected_bytes<B: Body>(seen: &Seen<'_>, body: &B) -> Result<Option<u64>, Reason> {
    let announced = match seen.content_length {
        Lines::None => None,
        Lines::One(line) => {
            let bytes = line.to_str().ok().and_then(|line| line.parse().ok());
            Some(bytes.ok_or(Reason::Incomplete)?)
        }
        Lines::Several => return Err(Reason::Incomplete),
    };
    match (announced, body.size_hint().exact()) {
        (Some(announced), Some(exact)) if announced != exact => Err(Reason::Incomplete),
        (announced, exact) => Ok(announced.or(exact)),
    }
}
