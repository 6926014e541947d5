//! What the cache does with a request.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version,
    header::{IF_MATCH, IF_UNMODIFIED_SINCE},
    uri::PathAndQuery,
};
use http_body::Body;

use super::{lease::Leasing, reason::Reason, single_flight::Lead};
use crate::{
    cache::{
        config::Config,
        entry::{
            entry::StoredResponse,
            key::{CacheKey, Uris},
            normal_form,
        },
        fill::order::Moment,
        http::{
            cache_control::RequestDirectives,
            cache_status::Forward,
            request_facts::{self, Facts, MethodClass},
            storability::Caller,
            vary::VarySpec,
        },
        policy::{CachePolicy, Wishes},
        store::{Fence, Found, Lookup, Stamp},
    },
    core::{
        error::StoreErrorKind, http::client_uri::ClientUri, identity::Identity,
        store_api::store_key::StoreKey, time::Timestamp,
    },
};

/// What the cache does with a request.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one for each request: a box would cost a hit an allocation"
)]
pub(crate) enum Plan {
    /// Nothing: the handler answers, and nothing is kept.
    Pass(Forward, Reason),
    /// The handler changes something: what is kept of it goes.
    Change(Box<Change>),
    /// The store is asked first.
    Look(Look),
}

/// What a request may change.
pub(crate) struct Change {
    pub(crate) uri: StoreKey,
    /// Of the URI that the client sent, as are the path and the query.
    pub(crate) authority: String,
    pub(crate) path: String,
    /// In its normal form.
    pub(crate) path_and_query: String,
    /// Present if the answer may be kept as one to a GET.
    pub(crate) as_got: Option<Box<AsGot>>,
}

/// A POST whose answer may be kept as one to a GET of the same target (RFC 9110 section 9.3.3).
pub(crate) struct AsGot {
    pub(crate) asked: Asked,
    pub(crate) uri: StoreKey,
    /// How many purges of it there had been when the request came.
    pub(crate) purges_seen: u64,
}

/// A request that may be answered from the store.
pub(crate) struct Look {
    /// The policy of the route.
    pub(crate) policy: Option<CachePolicy>,
    pub(crate) caller: Caller,
    /// The keys of the response, looked up in this order.
    pub(crate) shared: Option<CacheKey>,
    pub(crate) own: Option<CacheKey>,
    pub(crate) in_own: bool,
    pub(crate) hint: Option<VarySpec>,
    pub(crate) head_only: bool,
    /// Whether it has `If-None-Match`, `If-Modified-Since` or `Range`.
    pub(super) selective: bool,
    /// Whether it is a GET with `Range`.
    pub(crate) wants_part: bool,
    /// Whether it has `If-Match` or `If-Unmodified-Since`, which the origin evaluates (RFC 9111
    /// section 4.3.2).
    pub(crate) precondition: bool,
    /// The cache directives of the request, where they are honored.
    pub(crate) asks: RequestDirectives,
    pub(crate) asked_at: Timestamp,
    /// The fence of the earliest look-up.
    pub(crate) fence: Option<Fence>,
    pub(crate) forward: Forward,
    pub(crate) failed: Option<StoreErrorKind>,
    /// The stored response, which may not be sent as it is.
    pub(crate) stale: Option<Stale>,
    /// The decompressed body of what was found, for a client that does not accept it compressed.
    pub(crate) plain: Option<Bytes>,
    /// A stored part that does not hold the requested range.
    pub(crate) part: Option<Box<Stale>>,
    /// Whether the response refreshes the store in the background of a request that has been sent a
    /// stale one.
    pub(crate) refreshes: bool,
    /// The form in which the handler is sent the request.
    pub(crate) question: Question,
    /// The digest of the route template, once the request boards a flight.
    pub(crate) route: Option<StoreKey>,
    pub(crate) collapsing: Collapsing,
    /// The number of flights that had landed when the store was asked.
    pub(crate) landed: u64,
    /// When the store was asked for each key, in the order of responses.
    pub(crate) shared_looked_up: Moment,
    pub(crate) own_looked_up: Moment,
    /// The flight that this request leads, and the partition that it fills.
    pub(crate) lead: Option<Lead>,
    pub(super) leads: Option<Leads>,
    /// The lease among the processes that share the store.
    pub(crate) leasing: Leasing,
    /// When this request began to wait for others, and for how long it has waited.
    pub(super) waits_since: Option<Timestamp>,
    pub(crate) waited: Option<Duration>,
}

/// The partition that the leader of a flight is to fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leads {
    /// The shared partition.
    Shared,
    /// The caller's own partition.
    Own,
}

/// The form in which the handler is sent a request that the store does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Question {
    /// The request as the client sent it.
    #[default]
    AsIs,
    /// A GET for the whole response, without conditions.
    Whole,
    /// A GET that asks whether the stored response is still valid.
    Validate,
}

/// Whether a request waits for others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Collapsing {
    /// It may.
    #[default]
    Open,
    /// It has waited for the response that another request stored.
    Collapsed,
    /// It has stored the response itself, and is answered from the store.
    Filled(Forward),
    /// It does not: the response of its URL or route is not storable, or it has waited in vain.
    Alone,
}

impl Collapsing {
    /// Returns how a request goes on whose own response was not stored, if it has filled one.
    pub(super) fn without_own(self) -> Self {
        match self {
            Self::Filled(_) => Self::Alone,
            Self::Open | Self::Collapsed | Self::Alone => self,
        }
    }
}

/// A request that may be answered from the store, once the handler is to be called for it.
pub(crate) struct Asked {
    pub(crate) look: Look,
    /// The request's fields, for `Vary` and for its conditions.
    pub(crate) fields: Fields,
    /// The rest of the request, if the handler may have to be asked again.
    pub(crate) again: Option<Box<RequestLine>>,
    /// The fields of a `304` that named another version than the stored one.
    pub(crate) unconfirmed: Option<Box<HeaderMap>>,
}

/// A request without its fields and body.
pub(crate) struct RequestLine {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) version: Version,
    pub(crate) extensions: Extensions,
}

impl Asked {
    #[inline(always)]
    pub(crate) fn new(look: Look) -> Self {
        Self {
            look,
            fields: Fields::default(),
            again: None,
            unconfirmed: None,
        }
    }

    /// Returns the client's request once more.
    pub(crate) fn request<B: 'static>(&self, config: &Config) -> Option<Request<B>> {
        let line = self.again.as_ref()?;
        let mut request = Request::new(config.empty_bodies.make()?);
        *request.method_mut() = line.method.clone();
        *request.uri_mut() = line.uri.clone();
        *request.version_mut() = line.version;
        *request.headers_mut() = self.fields.to_map();
        *request.extensions_mut() = line.extensions.clone();
        Some(request)
    }
}

/// How many fields need no memory of their own.
const FIELDS_WITHIN: usize = 6;

/// A request's fields, as they came.
#[derive(Default)]
pub(crate) struct Fields {
    first: [Option<(HeaderName, HeaderValue)>; FIELDS_WITHIN],
    more: Vec<(HeaderName, HeaderValue)>,
}

impl Fields {
    /// Copies the fields.
    pub(crate) fn keep(&mut self, headers: &HeaderMap) {
        let mut fields = headers
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()));
        for place in &mut self.first {
            *place = fields.next();
        }
        self.more = fields.collect();
    }

    /// Returns them as they were copied.
    pub(crate) fn to_map(&self) -> HeaderMap {
        let first = self.first.iter().flatten();
        let mut headers = HeaderMap::new();
        for (name, value) in first.chain(&self.more) {
            headers.append(name, value.clone());
        }
        headers
    }
}

/// A stored response that may not be sent as it is.
#[derive(Clone, Debug)]
pub(crate) struct Stale {
    pub(crate) key: CacheKey,
    pub(crate) entry: Arc<StoredResponse>,
    pub(crate) stamp: Stamp,
    /// The fence of its look-up.
    pub(crate) fence: Fence,
    /// Whether a soft purge has come over it.
    pub(crate) expired: bool,
}

impl Stale {
    /// Returns the stored response that a look-up has found.
    pub(crate) fn found(key: CacheKey, lookup: Lookup) -> Option<Self> {
        match lookup.found {
            Found::Entry {
                entry,
                stamp,
                expired,
            } => Some(Self {
                key,
                entry,
                stamp,
                fence: lookup.fence,
                expired,
            }),
            Found::Nothing | Found::NoVariant | Found::Varies(_) => None,
        }
    }
}

impl Plan {
    /// Decides what to do with a request, and drops of its query what is not to count.
    #[inline]
    pub(crate) fn of<B: Body>(config: &Config, request: &mut Request<B>) -> Self {
        let policy = config.policy_of(request);
        let wishes = policy.as_ref().map(CachePolicy::wishes);
        let is_off = wishes.is_some_and(|wishes| wishes.off);
        let wishes = wishes.filter(|_| !is_off);
        let credentials = wishes.and_then(|wishes| wishes.credentials.as_ref());
        let facts = request_facts::read(request, &config.rules, credentials);
        let narrow = |uri: &Uri| wishes.and_then(|wishes| wishes.narrowed(uri));
        let narrowed = narrow(request.uri());
        let client = ClientUri::of(request.extensions());
        let client_narrowed = client.and_then(narrow);
        let inner = narrowed.as_ref().unwrap_or(request.uri());
        let uris = Uris {
            client: client_narrowed.as_ref().or(client).unwrap_or(inner),
            inner,
        };
        match facts.method {
            MethodClass::Safe => return Self::Pass(Forward::Method, Reason::Method),
            MethodClass::Unsafe => {
                let policy = policy.filter(|_| !is_off);
                return Self::change(config, request, uris, &facts, policy);
            }
            MethodClass::Get | MethodClass::Head if is_off => {
                return Self::Pass(Forward::Bypass, Reason::Off);
            }
            MethodClass::Get | MethodClass::Head => {}
        }
        if narrowed.is_none() {
            // Returned at once: a plan is large, and is not moved where nothing follows.
            return Self::get(config, request, uris, &facts, policy);
        }
        let plan = Self::get(config, request, uris, &facts, policy);
        if let Some(narrowed) = narrowed {
            *request.uri_mut() = narrowed;
        }
        plan
    }

    #[inline]
    fn get<B>(
        config: &Config,
        request: &Request<B>,
        uris: Uris<'_>,
        facts: &Facts<'_>,
        policy: Option<CachePolicy>,
    ) -> Self {
        match facts.bypass_of_get() {
            Some(reason) => Self::Pass(Forward::Bypass, reason),
            None => Self::look(config, request, uris, facts, policy),
        }
    }

    #[inline]
    fn look<B>(
        config: &Config,
        request: &Request<B>,
        uris: Uris<'_>,
        facts: &Facts<'_>,
        policy: Option<CachePolicy>,
    ) -> Self {
        let target = facts.target(uris, request.headers());
        let Some(mut target) = target.filter(|target| !target.has_user_info()) else {
            return Self::Pass(Forward::Bypass, Reason::Authority);
        };
        let wishes = policy.as_ref().map(CachePolicy::wishes);
        let identity = request.extensions().get::<Identity>();
        let headers = request.headers();
        let vary_by = wishes.map(|wishes| &*wishes.vary_by);
        let vary_by = vary_by.filter(|vary_by| !vary_by.is_empty());
        target.vary_by = vary_by.map(|vary_by| (vary_by, headers));
        match caller(config, wishes, facts, identity) {
            Err(reason) => Self::Pass(Forward::Bypass, reason),
            Ok(caller) => {
                let shared = config.keys.shared(&target);
                Self::Look(Look::new(config, facts, shared, caller, policy, headers))
            }
        }
    }

    fn change<B>(
        config: &Config,
        request: &Request<B>,
        uris: Uris<'_>,
        facts: &Facts<'_>,
        policy: Option<CachePolicy>,
    ) -> Self {
        let Some(target) = facts.target(uris, request.headers()) else {
            return Self::Pass(Forward::Method, Reason::Authority);
        };
        let path_and_query = uris
            .client
            .path_and_query()
            .map_or("", PathAndQuery::as_str);
        Self::Change(Box::new(Change {
            uri: config.keys.uri(&target),
            authority: String::from_utf8_lossy(target.authority).into_owned(),
            path: target.path.to_owned(),
            path_and_query: normal_form::percent_encoding(path_and_query).into_owned(),
            as_got: AsGot::of(config, request, uris, facts, policy).map(Box::new),
        }))
    }
}

impl AsGot {
    fn of<B>(
        config: &Config,
        request: &Request<B>,
        uris: Uris<'_>,
        facts: &Facts<'_>,
        policy: Option<CachePolicy>,
    ) -> Option<Self> {
        let is_post = *request.method() == Method::POST;
        if !config.rules.keep_posts || !is_post || facts.bypass.is_some() {
            return None;
        }
        // Before the request is looked at again: a purge between the two is seen.
        let url = config.keys.uri(&facts.target(uris, request.headers())?);
        let purges_seen = config.purges.of(&url);
        let Plan::Look(look) = Plan::look(config, request, uris, facts, policy) else {
            return None;
        };
        let mut asked = Asked::new(look);
        asked.fields.keep(request.headers());
        Some(Self {
            asked,
            uri: url,
            purges_seen,
        })
    }
}

fn caller(
    config: &Config,
    wishes: Option<&Wishes>,
    facts: &Facts<'_>,
    identity: Option<&Identity>,
) -> Result<Caller, Reason> {
    let share_where_public = wishes
        .and_then(|wishes| wishes.share_where_public)
        .unwrap_or(config.rules.share_where_public);
    match identity {
        Some(identity) => Ok(Caller::Known {
            digest: *identity.digest(),
            share_where_public,
        }),
        None if !facts.credential => Ok(Caller::Anonymous),
        None if share_where_public => Ok(Caller::Unvouched),
        None => {
            config.placement.report_outside();
            Err(Reason::CredentialWithoutIdentity)
        }
    }
}

impl Look {
    // Where it is called: so large a thing is best made where it stays.
    #[inline(always)]
    fn new(
        config: &Config,
        facts: &Facts<'_>,
        shared: CacheKey,
        caller: Caller,
        policy: Option<CachePolicy>,
        headers: &HeaderMap,
    ) -> Self {
        // Beside the caller's own credential another one may say for whom it asks.
        let credentials = facts.credential.then(|| {
            let wishes = policy.as_ref().map(CachePolicy::wishes);
            let by_route = wishes.and_then(|wishes| wishes.credentials.as_ref());
            let names = by_route.unwrap_or(&config.rules.credential_headers);
            (names.as_slice(), headers)
        });
        let (shared, own) = match &caller {
            Caller::Anonymous | Caller::Unvouched => (Some(shared), None),
            Caller::Known {
                digest,
                share_where_public,
            } => (
                share_where_public.then_some(shared),
                Some(config.keys.own(&shared, digest, credentials)),
            ),
        };
        let looked_up = config.order.now();
        Self {
            policy,
            caller,
            in_own: shared.is_none(),
            shared,
            own,
            hint: None,
            head_only: facts.method == MethodClass::Head,
            selective: facts.condition || facts.range,
            wants_part: facts.range && facts.method == MethodClass::Get,
            precondition: facts.condition
                && (headers.contains_key(IF_MATCH) || headers.contains_key(IF_UNMODIFIED_SINCE)),
            asks: match config.rules.heed_requests {
                true => RequestDirectives::of(headers),
                false => RequestDirectives::default(),
            },
            asked_at: config.clock.coarse(),
            fence: None,
            forward: Forward::UriMiss,
            failed: None,
            stale: None,
            plain: None,
            part: None,
            refreshes: false,
            question: Question::AsIs,
            route: None,
            collapsing: Collapsing::Open,
            landed: config.flights.landed(),
            shared_looked_up: looked_up,
            own_looked_up: looked_up,
            lead: None,
            leads: None,
            leasing: Leasing::default(),
            waits_since: None,
            waited: None,
        }
    }

    /// Returns the key under which the store is asked next.
    #[inline]
    pub(crate) fn key(&self) -> Option<&CacheKey> {
        let key = if self.in_own { &self.own } else { &self.shared };
        key.as_ref()
    }

    /// Returns the key that this request is to fill, if it leads a flight.
    pub(crate) fn lead_key(&self) -> Option<CacheKey> {
        match self.leads? {
            Leads::Shared => self.shared,
            Leads::Own => self.own,
        }
    }

    /// Notes that this request leads a flight for one of its keys.
    pub(crate) fn lead(&mut self, lead: Lead, key: CacheKey) {
        self.lead = Some(lead);
        self.leads = Some(match self.shared == Some(key) {
            true => Leads::Shared,
            false => Leads::Own,
        });
    }

    /// Returns the key under which the store is asked first.
    #[inline]
    pub(crate) fn first_key(&self) -> Option<&CacheKey> {
        self.shared.as_ref().or(self.own.as_ref())
    }

    /// Goes on to the next place where the answer may be.
    pub(super) fn next_key(&mut self) -> bool {
        let more = !self.in_own && self.own.is_some();
        self.in_own |= more;
        self.hint = None;
        more
    }

    /// Looks up the first key again.
    pub(super) fn start_over(&mut self, config: &Config) {
        self.in_own = self.shared.is_none();
        self.hint = None;
        self.stale = None;
        self.plain = None;
        self.part = None;
        self.fence = None;
        self.forward = Forward::UriMiss;
        self.asked_at = config.clock.coarse();
        self.landed = config.flights.landed();
        self.shared_looked_up = config.order.now();
        self.own_looked_up = self.shared_looked_up;
    }

    /// Notes the end of a wait for another request.
    pub(super) fn resume(&mut self, config: &Config) {
        let now = config.clock.coarse();
        self.waited = self.waits_since.map(|since| now - since);
    }

    /// Returns whether a response to this request is for it alone: a part, a comparison, or a head.
    pub(crate) fn is_selective(&self) -> bool {
        self.selective || self.head_only
    }
}
