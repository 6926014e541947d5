//! A request that may be answered from the store.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap,
    header::{IF_MATCH, IF_UNMODIFIED_SINCE},
};

use crate::{
    cache::{
        config::Config,
        entry::{entry::StoredResponse, key::CacheKey},
        fill::order::Moment,
        flight::{lease::Leasing, single_flight::Lead},
        http::{
            cache_control::RequestDirectives,
            cache_status::Forward,
            request_facts::{Facts, MethodClass},
            storability::RequestCaller,
            vary::VarySpec,
        },
        policy::CachePolicy,
        store::{Fence, Found, Lookup, Stamp},
    },
    core::{
        error::StoreErrorKind,
        store_api::store_key::{LongStoreKey, StoreKey},
        time::Timestamp,
    },
};

/// A request that may be answered from the store.
pub(crate) struct Look {
    /// The policy of the route.
    pub(crate) policy: Option<CachePolicy>,
    pub(crate) caller: RequestCaller,
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
    pub(crate) question: RequestForm,
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
pub(crate) enum RequestForm {
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
    /// Returns the key of the flight that validates the response: of its variant alone, as other variants
    /// are not waited for.
    pub(super) fn flight(&self, config: &Config) -> LongStoreKey {
        match self.entry.vary.is_empty() {
            true => *self.key.full(),
            false => config.keys.variant(&self.key, &self.entry.variant),
        }
    }

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

impl Look {
    // Where it is called: so large a thing is best made where it stays.
    #[inline(always)]
    pub(super) fn new(
        config: &Config,
        facts: &Facts<'_>,
        shared: CacheKey,
        caller: RequestCaller,
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
            RequestCaller::Anonymous | RequestCaller::Unvouched => (Some(shared), None),
            RequestCaller::Known {
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
            question: RequestForm::AsIs,
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
