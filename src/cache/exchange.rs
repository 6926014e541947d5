//! One request and its answer: what to ask the store, and what to make of what it says.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body::Body;

use super::{
    answer,
    body::CacheBody,
    cache_status::{CACHE_STATUS, Forward, Report},
    config::Config,
    date,
    directives::RequestDirectives,
    entry::{self, StoredResponse, fits, remove_hop_by_hop},
    fill::{Fill, Head},
    freshness::Times,
    invalidate,
    key::{CacheKey, Partition, Target},
    reason::Reason,
    request::{self, Facts, MethodClass},
    storability::{Caller, Verdict, judge},
    store::{Fence, Found, Lookup, PurgeMode, PurgeTarget},
    vary::{Selection, VarySpec},
};
use crate::{
    error::{StoreError, StoreErrorKind},
    identity::Identity,
    notice,
    record::{CacheSource, RecordHandle},
    store_future::StoreFuture,
    store_key::StoreKey,
    time::Timestamp,
};

/// One request and its answer.
pub(super) struct Exchange {
    config: Arc<Config>,
    record: Option<RecordHandle>,
    plan: Plan,
}

/// What the cache does with a request.
enum Plan {
    /// Nothing: the handler answers, and nothing is kept.
    Pass(Forward, Reason),
    /// The handler changes something: what is kept of it goes.
    Change(Change),
    /// The store is asked first.
    Look(Look),
}

/// What a request may change.
struct Change {
    uri: StoreKey,
    authority: String,
    path: String,
}

/// A request that may be answered from the store.
struct Look {
    caller: Caller,
    /// Where the answer may be: tried in this order.
    shared: Option<CacheKey>,
    own: Option<CacheKey>,
    in_own: bool,
    hint: Option<VarySpec>,
    head_only: bool,
    condition: bool,
    /// What the request asks of the cache, where that is heeded.
    asks: RequestDirectives,
    asked_at: Timestamp,
    /// The earliest lookup's.
    fence: Option<Fence>,
    forward: Forward,
    failed: Option<StoreErrorKind>,
    /// The request's fields, for what the answer will say that it varies by.
    fields: Vec<(HeaderName, HeaderValue)>,
}

/// What follows from what the store said.
pub(super) enum Step {
    /// Another question to the store.
    Ask,
    /// A call of the handler.
    Call,
    /// This answer.
    Answer(Response<Bytes>),
}

impl Exchange {
    /// Begins with a request.
    pub(super) fn begin<B: Body>(config: &Arc<Config>, request: &Request<B>) -> Self {
        Self {
            plan: plan(config, request),
            record: RecordHandle::of(request.extensions()).cloned(),
            config: Arc::clone(config),
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
        Some(self.config.store.get(&look.key()?, &selection))
    }

    /// Takes what the store said.
    pub(super) fn learn<B>(
        &mut self,
        answer: Result<Lookup, StoreError>,
        request: &Request<B>,
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
            Found::Entry { entry, expired, .. } => {
                let selection = Selection::new(request.headers(), self.config.keys.variants());
                if !fits(&selection, &entry) {
                    look.forward = Forward::VaryMiss;
                } else if expired || !look.is_fresh(&entry) {
                    look.forward = Forward::Stale;
                } else if !look.is_fresh_enough(&entry) {
                    look.forward = Forward::Request;
                } else {
                    let condition = look.condition.then(|| request.headers());
                    let now = look.asked_at;
                    let response = answer::respond(&entry, condition, look.head_only, now);
                    let ttl_secs = entry.freshness.ttl_secs(now);
                    let report = Report::hit(CacheSource::Hit, ttl_secs);
                    return Step::Answer(self.reported(report, response));
                }
            }
        }
        if look.next_key() {
            return Step::Ask;
        }
        if look.asks.only_if_cached {
            return Step::Answer(self.not_cached());
        }
        look.keep_fields(request.headers());
        Step::Call
    }

    /// Takes the handler's answer, and returns it with what is still to be done before the client
    /// may see it.
    pub(super) fn conclude<B>(
        mut self,
        response: Response<B>,
    ) -> (Response<CacheBody<B>>, Option<StoreFuture<()>>)
    where
        B: Body<Data = Bytes>,
    {
        match std::mem::replace(&mut self.plan, Plan::Pass(Forward::Bypass, Reason::Off)) {
            Plan::Pass(forward, reason) => {
                let report = Report::forwarded(CacheSource::Bypass, forward).reason(reason);
                (self.reported(report, response.map(CacheBody::inner)), None)
            }
            Plan::Change(change) => {
                let purge = change.purge(&self.config, &response);
                let report = Report::forwarded(CacheSource::Bypass, Forward::Method);
                (self.reported(report, response.map(CacheBody::inner)), purge)
            }
            Plan::Look(look) => (self.fill(look, response), None),
        }
    }

    /// Lets an answer through, and stores what passes if it may be kept.
    fn fill<B>(&self, look: Look, response: Response<B>) -> Response<CacheBody<B>>
    where
        B: Body<Data = Bytes>,
    {
        let source = match look.failed {
            Some(kind) => CacheSource::StoreFailed(kind),
            None => CacheSource::Miss,
        };
        let report = Report::forwarded(source, look.forward);
        match self.filling(&look, &response) {
            Err(reason) => {
                let report = report.reason(reason);
                self.reported(report, response.map(CacheBody::inner))
            }
            Ok(fill) => {
                let ttl_secs = fill
                    .head
                    .freshness
                    .ttl_secs(fill.head.freshness.received_at);
                let report = Report {
                    stored: true,
                    ttl_secs: Some(ttl_secs),
                    ..report
                };
                let response = response.map(|body| CacheBody::filling(body, fill));
                self.reported(report, response)
            }
        }
    }

    /// Begins to store an answer, or says why it is not kept.
    fn filling<B>(&self, look: &Look, response: &Response<B>) -> Result<Fill, Option<Reason>>
    where
        B: Body<Data = Bytes>,
    {
        if look.failed.is_some() {
            return Err(Some(Reason::Store));
        }
        if look.head_only {
            return Err(None);
        }
        let Some(fence) = look.fence else {
            return Err(None);
        };
        if look.asks.no_store {
            return Err(Some(Reason::RequestDirective));
        }
        let times = Times {
            asked_at: look.asked_at,
            received_at: self.config.clock.now(),
            received_wall: self.config.clock.wall(),
        };
        let headers = response.headers();
        let rules = &self.config.rules;
        let verdict = judge(rules, &look.caller, response.status(), headers, &times)?;
        let expected_bytes = expected_bytes(response)?;
        if expected_bytes.is_some_and(|bytes| bytes > rules.body_bytes_max) {
            return Err(Some(Reason::TooLarge));
        }
        let head = self.head(look, &verdict, fence, response, &times)?;
        Ok(Fill::new(Arc::clone(&self.config), head, expected_bytes))
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
        Ok(Head {
            key: key.ok_or(None::<Reason>)?,
            fence,
            retain: entry::retain(
                &verdict.freshness,
                verdict.has_validator,
                config.validated_for,
            ),
            status: response.status(),
            headers: kept_headers(response.headers(), verdict, times),
            freshness: verdict.freshness,
            vary: verdict.vary.clone(),
            variant,
            partition: config.keys.partition(partition),
            tags: Vec::new(),
        })
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
        if let Some(name) = &self.config.name {
            response
                .headers_mut()
                .append(CACHE_STATUS, report.to_value(name));
        }
        if let Some(record) = &self.record {
            let outcome = report.to_outcome();
            record.set_cache(outcome.clone());
            response.extensions_mut().insert(outcome);
        }
        response
    }
}

impl Look {
    fn key(&self) -> Option<CacheKey> {
        if self.in_own { self.own } else { self.shared }
    }

    /// Goes on to the next place where the answer may be.
    fn next_key(&mut self) -> bool {
        let more = !self.in_own && self.own.is_some();
        self.in_own |= more;
        self.hint = None;
        more
    }

    /// Copies the request's fields, which the answer may say that it varies by.
    fn keep_fields(&mut self, headers: &HeaderMap) {
        if !self.head_only && self.failed.is_none() {
            let fields = headers.iter();
            self.fields = fields
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect();
        }
    }

    fn asked_fields(&self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(self.fields.len());
        for (name, value) in &self.fields {
            headers.append(name, value.clone());
        }
        headers
    }

    fn is_fresh(&self, entry: &StoredResponse) -> bool {
        let freshness = &entry.freshness;
        !freshness.always_validate && freshness.ttl_secs(self.asked_at) > 0
    }

    /// Returns whether an answer is fresh enough for what the request asks.
    fn is_fresh_enough(&self, entry: &StoredResponse) -> bool {
        let age_secs = entry.freshness.age_secs(self.asked_at);
        let ttl_secs = entry.freshness.ttl_secs(self.asked_at);
        let RequestDirectives {
            no_cache,
            max_age_secs,
            min_fresh_secs,
            ..
        } = self.asks;
        !no_cache
            && max_age_secs.is_none_or(|most| age_secs <= most)
            && min_fresh_secs.is_none_or(|least| ttl_secs >= i64::from(least))
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
        Some(config.store.purge(&targets, PurgeMode::Hard))
    }
}

const UNVOUCHED: &str = "the cache met a credential for which no `Identity` stands: such requests \
    go past it. Put it inside of the layer that authenticates, or insert an `Identity` into the \
    request's extensions";

/// Decides what the cache does with a request.
fn plan<B: Body>(config: &Config, request: &Request<B>) -> Plan {
    let facts = request::read(request, &config.rules);
    let target = Target::of(request.uri(), request.headers(), facts.rerouted);
    match facts.method {
        MethodClass::Safe => return Plan::Pass(Forward::Method, Reason::Method),
        MethodClass::Unsafe => {
            let Some(target) = target else {
                return Plan::Pass(Forward::Method, Reason::Authority);
            };
            return Plan::Change(Change {
                uri: config.keys.uri(&target),
                authority: target.authority.to_owned(),
                path: target.path.to_owned(),
            });
        }
        MethodClass::Get | MethodClass::Head => {}
    }
    if let Some(reason) = facts.bypass {
        return Plan::Pass(Forward::Bypass, reason);
    }
    if facts.range {
        return Plan::Pass(Forward::Bypass, Reason::Range);
    }
    let Some(target) = target else {
        return Plan::Pass(Forward::Bypass, Reason::Authority);
    };
    let asks = match config.rules.heed_requests {
        true => RequestDirectives::of(request.headers()),
        false => RequestDirectives::default(),
    };
    let identity = request.extensions().get::<Identity>();
    match caller(config, &facts, identity) {
        Ok(caller) => Plan::Look(look(config, &facts, &target, caller, asks)),
        Err(reason) => Plan::Pass(Forward::Bypass, reason),
    }
}

fn caller(config: &Config, facts: &Facts, identity: Option<&Identity>) -> Result<Caller, Reason> {
    let share_where_public = config.rules.share_where_public;
    match identity {
        Some(identity) => Ok(Caller::Known {
            digest: *identity.digest(),
            share_where_public,
        }),
        None if !facts.credential => Ok(Caller::Anonymous),
        None if share_where_public => Ok(Caller::Unvouched),
        None => {
            notice::once(&config.unvouched_said, || UNVOUCHED.to_owned());
            Err(Reason::CredentialWithoutIdentity)
        }
    }
}

fn look(
    config: &Config,
    facts: &Facts,
    target: &Target<'_>,
    caller: Caller,
    asks: RequestDirectives,
) -> Look {
    let key = |partition| Some(config.keys.key(target, partition));
    let (shared, own) = match &caller {
        Caller::Anonymous | Caller::Unvouched => (key(Partition::Shared), None),
        Caller::Known {
            digest,
            share_where_public: false,
        } => (None, key(Partition::Own(digest))),
        Caller::Known { digest, .. } => (key(Partition::Shared), key(Partition::Own(digest))),
    };
    Look {
        caller,
        in_own: shared.is_none(),
        shared,
        own,
        hint: None,
        head_only: facts.method == MethodClass::Head,
        condition: facts.condition,
        asks,
        asked_at: config.clock.now(),
        fence: None,
        forward: Forward::UriMiss,
        failed: None,
        fields: Vec::new(),
    }
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

/// Returns the fields that are kept of an answer.
fn kept_headers(headers: &HeaderMap, verdict: &Verdict, times: &Times) -> HeaderMap {
    let mut kept = headers.clone();
    remove_hop_by_hop(&mut kept);
    for name in &verdict.without {
        kept.remove(name);
    }
    // Who receives an answer without a date gives it one (RFC 9110 section 6.6.1).
    kept.entry(header::DATE)
        .or_insert_with(|| date::format(times.received_wall));
    kept
}
