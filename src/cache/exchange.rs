//! One request and its answer: what to ask the store, and what to make of what it says.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body::Body;

use super::{
    assured::assured,
    body::CacheBody,
    cache_status::{CACHE_STATUS, Forward, Report},
    collapse::Landing,
    config::Config,
    date,
    entry::{self, StoredResponse, compact, remove_hop_by_hop},
    fill::{Fill, Head},
    freshness::Times,
    invalidate,
    key::{Partition, Target},
    packing,
    part::Place,
    plan::{AsGot, Asked, Change, Fields, Look, Plan, Stale},
    reason::Reason,
    search::Search,
    shown::Told,
    storability::{Caller, Verdict, Wanted, is_explicit, judge},
    store::{Fence, Lookup, PurgeMode, PurgeTarget, Touch},
    tags::{self, CacheTags},
    validation,
    vary::Selection,
};
use crate::{
    error::{StoreError, StoreErrorKind},
    record::{CacheSource, RecordHandle},
    store_future::StoreFuture,
    store_key::StoreKey,
};

/// One request past the store, and its answer.
pub(super) struct Exchange {
    pub(super) config: Arc<Config>,
    record: Option<RecordHandle>,
    course: Course,
}

/// What the cache does beside the handler.
enum Course {
    /// Nothing.
    Pass(Forward, Reason),
    /// What is kept of what the request may change goes.
    Change(Box<Change>),
    /// The answer may be kept.
    Look(Box<Asked>),
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
    /// Goes past the store with a request.
    pub(super) fn past<B>(config: &Arc<Config>, plan: Plan, request: &Request<B>) -> Self {
        let course = match plan {
            Plan::Pass(forward, reason) => Course::Pass(forward, reason),
            Plan::Change(change) => Course::Change(change),
            Plan::Look(look) => {
                let fields = Fields::default();
                Course::Look(Box::new(Asked { look, fields }))
            }
        };
        Self {
            config: Arc::clone(config),
            record: RecordHandle::of(request.extensions()).cloned(),
            course,
        }
    }

    /// Returns to the store, if that has been asked.
    pub(super) fn search(&mut self) -> Option<Search<'_>> {
        match &mut self.course {
            Course::Look(asked) => Some(Search {
                config: &self.config,
                look: &mut asked.look,
            }),
            Course::Pass(..) | Course::Change(_) => None,
        }
    }

    /// Prepares the call of the handler.
    pub(super) fn prepare<B>(&mut self, request: &mut Request<B>) {
        let Course::Look(asked) = &mut self.course else {
            return;
        };
        let look = &mut asked.look;
        // What is made beside a request is none of its record's affairs.
        if look.refreshes {
            self.record = None;
        }
        look.collapsed = false;
        if look.failed.is_some() {
            return;
        }
        if !look.head_only || look.selective {
            asked.fields.keep(request.headers());
        }
        if let Some(stale) = look.stale.as_ref().filter(|_| !look.head_only) {
            look.validates = validation::ask(request, &stale.entry.headers);
        }
    }

    fn take_course(&mut self) -> Course {
        std::mem::replace(&mut self.course, Course::Pass(Forward::Bypass, Reason::Off))
    }

    fn told<'a>(&'a self, look: Option<&'a Look>) -> Told<'a> {
        Told {
            config: &self.config,
            record: self.record.as_ref(),
            key: look.and_then(Look::first_key),
        }
    }

    /// Takes the handler's answer, and returns it with what is still to be done before the client
    /// may see it.
    pub(super) fn conclude<B>(
        mut self,
        mut response: Response<B>,
    ) -> (Response<CacheBody<B>>, Option<Settling>)
    where
        B: Body<Data = Bytes> + Send + 'static,
    {
        match self.take_course() {
            Course::Pass(forward, reason) => {
                self.take_tags_off(response.headers_mut());
                let report = Report::forwarded(CacheSource::Bypass, forward).reason(reason);
                let response = response.map(CacheBody::inner);
                (self.told(None).reported(report, response), None)
            }
            Course::Change(change) => self.conclude_change(*change, response),
            Course::Look(mut asked) => self.conclude_look(&mut asked, response),
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
                (
                    self.told(None).reported(report, response),
                    settled.map(Settling::from),
                )
            }
        }
    }

    fn conclude_look<B>(
        &self,
        asked: &mut Asked,
        response: Response<B>,
    ) -> (Response<CacheBody<B>>, Option<Settling>)
    where
        B: Body<Data = Bytes> + Send + 'static,
    {
        let look = &asked.look;
        if let Some(stale) = look.stale.clone() {
            if look.validates && response.status() == StatusCode::NOT_MODIFIED {
                return self.revalidated(asked, &stale, &response);
            }
            if look.head_only && response.status() == StatusCode::OK {
                if validation::describes(response.headers(), &stale.entry.headers) {
                    return self.revalidated(asked, &stale, &response);
                }
                let settling = self.outdated(look, stale).map(Settling::from);
                return (self.fill(asked, response), settling);
            }
            if stands_in_for(response.status()) && self.may_stand_in(look, &stale) {
                let status = Some(response.status());
                self.land(&mut asked.look, Landing::NotStored);
                let answer = self.stale(asked, &stale.entry, status);
                return (answer.map(CacheBody::stored), None);
            }
        }
        (self.fill(asked, response), None)
    }

    /// Takes a failure of the handler. Returns a stale answer, if one may stand in.
    pub(super) fn rescue(mut self) -> Option<Response<Bytes>> {
        let Course::Look(mut asked) = self.take_course() else {
            return None;
        };
        // One of those who wait tries next: not all at once, before a handler that fails.
        self.land(&mut asked.look, Landing::Abandoned);
        let stale = asked.look.stale.take()?;
        self.may_stand_in(&asked.look, &stale)
            .then(|| self.stale(&asked, &stale.entry, None))
    }

    /// Answers with what is stale; `status` is what the handler answered, if it did.
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

    /// Answers with what is stored, fresh again: by a `304`, or by an answer to a HEAD.
    fn revalidated<B>(
        &self,
        asked: &mut Asked,
        stale: &Stale,
        answer: &Response<B>,
    ) -> (Response<CacheBody<B>>, Option<Settling>) {
        let look = &mut asked.look;
        let fresh = answer.headers();
        let mut headers = validation::merged(&stale.entry.headers, fresh);
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
        let verdict = judge(rules, &look.caller, status, &dated, &wanted, &times);
        let verdict = verdict.and_then(|verdict| stays(look, stale, verdict));
        let mut entry = StoredResponse {
            headers,
            ..(*stale.entry).clone()
        };
        let mut settling = None;
        if let (Ok(verdict), Some(fence)) = (&verdict, look.fence) {
            entry.headers = compact(&self.kept_headers(&dated, verdict, &times));
            entry.freshness = self.config.jitter.shorten(verdict.freshness, &stale.key);
            entry.says_shared = verdict.says_shared;
            let tags = self.tags(answer);
            if !tags.is_empty() {
                entry.tags = tags;
            }
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
        let now = self.config.clock.now();
        let report = Report {
            forward: Some(look.forward),
            forward_status: Some(answer.status()),
            stored: settling.is_some(),
            ..Report::hit(CacheSource::Revalidated, entry.freshness.ttl_secs(now))
        };
        let report = report.reason(verdict.err());
        let (look, fields) = (&asked.look, asked.fields.to_map());
        let response = self
            .told(Some(look))
            .stored(&entry, look, &fields, now, report);
        (
            response.map(CacheBody::stored),
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
    fn fill<B>(&self, asked: &mut Asked, mut response: Response<B>) -> Response<CacheBody<B>>
    where
        B: Body<Data = Bytes> + Send + 'static,
    {
        let filling = self.filling(asked, &response);
        let look = &mut asked.look;
        let source = match look.failed {
            Some(kind) => CacheSource::StoreFailed(kind),
            None => CacheSource::Miss,
        };
        let mut report = Report::forwarded(source, look.forward);
        if look.validates {
            report.forward_status = Some(response.status());
        }
        self.take_tags_off(response.headers_mut());
        match filling {
            Err(reason) => {
                self.land(look, Landing::NotStored);
                let report = report.reason(reason);
                let response = response.map(CacheBody::inner);
                self.told(Some(look)).reported(report, response)
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
                let response = self.told(Some(look)).reported(report, response);
                response.map(|body| CacheBody::filling(body, fill))
            }
        }
    }

    /// Begins to store an answer, or says why it is not kept.
    fn filling<B>(&self, asked: &Asked, response: &Response<B>) -> Result<Fill, Option<Reason>>
    where
        B: Body<Data = Bytes> + Send + 'static,
    {
        let look = &asked.look;
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
        let wanted = wanted(look, response);
        let verdict = judge(rules, &look.caller, status, headers, &wanted, &times)?;
        expected_bytes = place.map_or(expected_bytes, |place| Some(place.len() as u64));
        if expected_bytes.is_some_and(|bytes| bytes > rules.body_bytes_max) {
            return Err(Some(Reason::TooLarge));
        }
        let mut head = self.head(asked, &verdict, fence, response, &times)?;
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
        asked: &Asked,
        verdict: &Verdict,
        fence: Fence,
        response: &Response<B>,
        times: &Times,
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

    fn times(&self, look: &Look) -> Times {
        Times {
            asked_at: look.asked_at,
            received_at: self.config.clock.coarse(),
            received_wall: self.config.clock.wall(),
        }
    }

    /// Returns the fields that are kept of an answer.
    fn kept_headers(&self, headers: &HeaderMap, verdict: &Verdict, times: &Times) -> HeaderMap {
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
            .or_insert_with(|| date::format(times.received_wall));
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
        if self.config.rules.stale_on_error || (stale_secs < 0 && !stale.expired) {
            return true;
        }
        let allowed = freshness
            .if_error_secs
            .max(look.asks.stale_if_error_secs.unwrap_or(0));
        allowed > 0 && stale_secs <= i64::from(allowed)
    }
}

impl Keep {
    /// Asks the store for a fence that is later than the purge that the answer itself has brought.
    pub(super) fn ask(&self) -> StoreFuture<Lookup> {
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
    pub(super) fn conclude<B>(
        self,
        answer: Result<Lookup, StoreError>,
        mut response: Response<CacheBody<B>>,
    ) -> Response<CacheBody<B>>
    where
        B: Body<Data = Bytes> + Send + 'static,
    {
        let (exchange, mut asked) = (self.exchange, self.as_got.asked);
        let fill = match answer {
            Ok(_) if exchange.config.purges.of(&self.as_got.uri) != self.as_got.purges_seen + 1 => {
                Err(Some(Reason::Purged))
            }
            Ok(lookup) => {
                asked.look.fence = Some(lookup.fence);
                exchange.filling(&asked, &response)
            }
            Err(_) => Err(Some(Reason::Store)),
        };
        exchange.take_tags_off(response.headers_mut());
        let mut report = Report::forwarded(CacheSource::Bypass, Forward::Method);
        match fill {
            Err(reason) => exchange
                .told(None)
                .reported(report.reason(reason), response),
            Ok(mut fill) => {
                let freshness = &fill.head.freshness;
                report.stored = true;
                report.ttl_secs = Some(freshness.ttl_secs(freshness.received_at));
                fill.record.clone_from(&exchange.record);
                Exchange::negotiates(&fill, response.headers_mut());
                let response = exchange.told(None).reported(report, response);
                response.map(|body| body.filled(fill))
            }
        }
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
