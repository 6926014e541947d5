//! What the cache does with a request.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, uri::PathAndQuery};
use http_body::Body;

use super::{
    cache_status::Forward,
    collapse::Lead,
    config::Config,
    directives::RequestDirectives,
    entry::StoredResponse,
    key::{CacheKey, Target, Uris},
    lease::Leasing,
    normal_form,
    policy::{CachePolicy, Wishes},
    reason::Reason,
    request::{self, Facts, MethodClass},
    storability::Caller,
    store::{Fence, Stamp},
    vary::VarySpec,
};
use crate::{
    client_uri::ClientUri, error::StoreErrorKind, identity::Identity, notice, store_key::StoreKey,
    time::Timestamp,
};

/// What the cache does with a request.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one for each request: a box would cost a hit an allocation"
)]
pub(super) enum Plan {
    /// Nothing: the handler answers, and nothing is kept.
    Pass(Forward, Reason),
    /// The handler changes something: what is kept of it goes.
    Change(Box<Change>),
    /// The store is asked first.
    Look(Look),
}

/// What a request may change.
pub(super) struct Change {
    pub(super) uri: StoreKey,
    /// Of the URI that the client sent, as are the path and the query.
    pub(super) authority: String,
    pub(super) path: String,
    /// In its normal form.
    pub(super) path_and_query: String,
    /// Present if the answer may be kept as one to a GET.
    pub(super) as_got: Option<Box<AsGot>>,
}

/// A POST whose answer may be kept as one to a GET of the same target (RFC 9110 section 9.3.3).
pub(super) struct AsGot {
    pub(super) asked: Asked,
    pub(super) uri: StoreKey,
    /// How many purges of it there had been when the request came.
    pub(super) purges_seen: u64,
}

/// A request that may be answered from the store.
pub(super) struct Look {
    /// What the route wants.
    pub(super) policy: Option<CachePolicy>,
    pub(super) caller: Caller,
    /// Where the answer may be: tried in this order.
    pub(super) shared: Option<CacheKey>,
    pub(super) own: Option<CacheKey>,
    pub(super) in_own: bool,
    pub(super) hint: Option<VarySpec>,
    pub(super) head_only: bool,
    /// Whether it has a condition, or asks for a part.
    pub(super) selective: bool,
    /// Whether it asks for a part, and by a method that may.
    pub(super) wants_part: bool,
    /// What the request asks of the cache, where that is heeded.
    pub(super) asks: RequestDirectives,
    pub(super) asked_at: Timestamp,
    /// The earliest lookup's.
    pub(super) fence: Option<Fence>,
    pub(super) forward: Forward,
    pub(super) failed: Option<StoreErrorKind>,
    /// What the store has, and what may not be shown as it is.
    pub(super) stale: Option<Stale>,
    /// The body of what was found, where that is kept compressed and this client does not take it so.
    pub(super) plain: Option<Bytes>,
    /// A part that the store has, and that does not hold what is asked for.
    pub(super) part: Option<Arc<StoredResponse>>,
    /// Whether the answer is made beside the request, which has been shown a stale one.
    pub(super) refreshes: bool,
    /// Whether the handler is asked if what is stale still holds.
    pub(super) validates: bool,
    /// How many answers others had made when the store was asked.
    pub(super) landed: u64,
    /// Others wait for this request's answer.
    pub(super) lead: Option<Lead>,
    /// Other processes do.
    pub(super) leasing: Leasing,
    /// Since when this request waits for others' answers, if it does.
    pub(super) waits_since: Option<Timestamp>,
    /// This request waited for another one's answer.
    pub(super) collapsed: bool,
}

/// A request that may be answered from the store, once the handler is to be called for it.
pub(super) struct Asked {
    pub(super) look: Look,
    /// The request's fields, for what the answer will say that it varies by.
    pub(super) fields: Fields,
}

/// How many fields need no memory of their own.
const FIELDS_WITHIN: usize = 6;

/// A request's fields, as they came.
#[derive(Default)]
pub(super) struct Fields {
    first: [Option<(HeaderName, HeaderValue)>; FIELDS_WITHIN],
    more: Vec<(HeaderName, HeaderValue)>,
}

impl Fields {
    /// Copies the fields.
    pub(super) fn keep(&mut self, headers: &HeaderMap) {
        let mut fields = headers
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()));
        for place in &mut self.first {
            *place = fields.next();
        }
        self.more = fields.collect();
    }

    /// Returns them as they were copied.
    pub(super) fn to_map(&self) -> HeaderMap {
        let first = self.first.iter().flatten();
        let mut headers = HeaderMap::new();
        for (name, value) in first.chain(&self.more) {
            headers.append(name, value.clone());
        }
        headers
    }
}

/// What the store has, and what may not be shown as it is.
#[derive(Clone)]
pub(super) struct Stale {
    pub(super) key: CacheKey,
    pub(super) entry: Arc<StoredResponse>,
    pub(super) stamp: Stamp,
    /// Whether a soft purge has come over it.
    pub(super) expired: bool,
}

impl Plan {
    /// Decides what to do with a request, and drops of its query what is not to count.
    #[inline]
    pub(super) fn of<B: Body>(config: &Config, request: &mut Request<B>) -> Self {
        let policy = request.extensions().get().or(config.policy.as_ref());
        let policy: Option<CachePolicy> = policy.cloned();
        let wishes = policy.as_ref().map(CachePolicy::wishes);
        let is_off = wishes.is_some_and(|wishes| wishes.off);
        let wishes = wishes.filter(|_| !is_off);
        let credentials = wishes.and_then(|wishes| wishes.credentials.as_ref());
        let facts = request::read(request, &config.rules, credentials);
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
        let Some(target) = target.filter(|target| !target.has_user_info()) else {
            return Self::Pass(Forward::Bypass, Reason::Authority);
        };
        let wishes = policy.as_ref().map(CachePolicy::wishes);
        let identity = request.extensions().get::<Identity>();
        match caller(config, wishes, facts, identity) {
            Err(reason) => Self::Pass(Forward::Bypass, reason),
            Ok(caller) => Self::Look(Look::new(
                config,
                facts,
                target,
                caller,
                policy,
                request.headers(),
            )),
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
        let mut fields = Fields::default();
        fields.keep(request.headers());
        Some(Self {
            asked: Asked { look, fields },
            uri: url,
            purges_seen,
        })
    }
}

const UNVOUCHED: &str = "the cache met a credential for which no `Identity` stands: such requests \
    go past it. Put it inside of the layer that authenticates, or insert an `Identity` into the \
    request's extensions";

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
            notice::once(&config.unvouched_said, || UNVOUCHED.to_owned());
            Err(Reason::CredentialWithoutIdentity)
        }
    }
}

impl Look {
    // Where it is called: so large a thing is best made where it stays.
    #[inline(always)]
    fn new<'a>(
        config: &Config,
        facts: &Facts<'_>,
        target: Target<'a>,
        caller: Caller,
        policy: Option<CachePolicy>,
        headers: &'a HeaderMap,
    ) -> Self {
        let vary_by = policy.as_ref().map(|policy| &*policy.wishes().vary_by);
        let shared = config.keys.shared(&Target {
            vary_by: vary_by
                .filter(|vary_by| !vary_by.is_empty())
                .map(|vary_by| (vary_by, headers)),
            ..target
        });
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
            validates: false,
            landed: config.flights.landed(),
            lead: None,
            leasing: Leasing::default(),
            waits_since: None,
            collapsed: false,
        }
    }

    /// Returns the key under which the store is asked next.
    #[inline]
    pub(super) fn key(&self) -> Option<&CacheKey> {
        let key = if self.in_own { &self.own } else { &self.shared };
        key.as_ref()
    }

    /// Returns the key under which the store is asked first.
    #[inline]
    pub(super) fn first_key(&self) -> Option<&CacheKey> {
        self.shared.as_ref().or(self.own.as_ref())
    }

    /// Goes on to the next place where the answer may be.
    pub(super) fn next_key(&mut self) -> bool {
        let more = !self.in_own && self.own.is_some();
        self.in_own |= more;
        self.hint = None;
        more
    }

    /// Begins again at the first place.
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
    }
}
