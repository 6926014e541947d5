//! A request that can be served from the store.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::facts::{LookupKeys, PartitionKind, RequestFacts, Wanted};
use crate::{
    cache::{
        config::Config,
        entry::{entry::StoredResponse, key::CacheKey},
        fill::order::Moment,
        flight::{
            lease::Leasing,
            single_flight::{Landing, Lead},
        },
        http::{cache_status::Forward, vary::VarySpec},
        store::{Fence, Found, Lookup, Stamp},
    },
    core::{
        error::StoreErrorKind,
        store_api::store_key::{LongStoreKey, StoreKey},
        time::Timestamp,
    },
};

/// The state of a request that can be served from the store.
pub(crate) struct Look {
    pub(crate) facts: RequestFacts,
    /// The current round of lookups.
    pub(crate) round: Round,
    pub(crate) role: LookupRole,
    /// The digest of the route template. Set when the request joins a flight.
    pub(crate) route: Option<StoreKey>,
    /// The flight that this request leads.
    pub(crate) leads: Option<LedFlight>,
    /// The lease among the instances that share the store.
    pub(crate) leasing: Leasing,
    /// The wait for other requests.
    pub(crate) waited: Waited,
}

/// One round of lookups, starting at the first key. Each wait for other requests is followed by a
/// new round.
pub(crate) struct Round {
    /// The partition of the next or the last lookup.
    pub(crate) partition: PartitionKind,
    /// The fields that select the variant, if the store has returned them.
    pub(super) hint: Option<VarySpec>,
    /// The fence of the earliest lookup.
    pub(crate) fence: Option<Fence>,
    pub(crate) forward: Forward,
    pub(crate) finding: Finding,
    /// A stored partial response that does not cover the requested range.
    pub(crate) part: Option<Box<Stale>>,
    pub(crate) asked_at: Timestamp,
    /// The number of flights that had landed before the lookup.
    pub(super) landed: u64,
    /// The moment of the lookup of each key, in the order of responses.
    pub(crate) shared_looked_up: Moment,
    pub(crate) own_looked_up: Moment,
}

/// The result of a round of lookups without a usable response.
pub(crate) enum Finding {
    /// Nothing is stored.
    Nothing,
    /// A stored response cannot be served without validation. Its decompressed body is present if
    /// the client does not accept the stored encoding.
    Stale(Stale, Option<Bytes>),
    /// The store failed.
    Failed(StoreErrorKind),
}

/// A flight that a request leads.
pub(crate) struct LedFlight {
    pub(crate) lead: Lead,
    /// The partition in which its response is to be stored.
    pub(crate) partition: PartitionKind,
}

/// The wait of a request for other requests.
//
// Never => Waits => Ended => Ended
#[derive(Clone, Copy, Debug)]
pub(crate) enum Waited {
    /// It has not waited.
    Never,
    /// It waits.
    Waits { since: Timestamp },
    /// It has waited, or waits again.
    Ended { since: Timestamp, time: Duration },
}

/// The role of a request among the concurrent requests for the same response.
//
// Open      => Collapsed | Filled | Alone | Refreshes
// Collapsed => Filled | Alone | Refreshes
// Filled    => Alone | Refreshes
// Alone     => Refreshes
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LookupRole {
    /// It can wait for other requests.
    Open,
    /// It has waited for the response that another request stored.
    Collapsed,
    /// It has stored the response itself, and is served from the store.
    Filled(Forward),
    /// It does not wait: the response of its URL or route is not storable, or the wait ended
    /// without a response.
    Alone,
    /// Its client has received a stale response, which is refreshed in the background.
    Refreshes,
}

/// A stored response that cannot be served without validation.
#[derive(Clone, Debug)]
pub(crate) struct Stale {
    pub(crate) key: CacheKey,
    pub(crate) entry: Arc<StoredResponse>,
    pub(crate) stamp: Stamp,
    /// The fence of its lookup.
    pub(crate) fence: Fence,
    /// `true` if a soft purge has expired it.
    pub(crate) expired: bool,
}

impl Stale {
    /// Returns the key of the flight that validates the response. It covers this variant alone:
    /// requests for other variants do not wait.
    pub(super) fn flight(&self, config: &Config) -> LongStoreKey {
        match self.entry.vary.is_empty() {
            true => *self.key.full(),
            false => config.keys.variant(&self.key, &self.entry.variant),
        }
    }

    /// Returns the stored response of a lookup, if there is one.
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
    // Inlined into the caller: the value is large, and is built in place.
    #[inline(always)]
    pub(super) fn new(config: &Config, facts: RequestFacts) -> Self {
        Self {
            round: Round::new(config, &facts.keys),
            facts,
            role: LookupRole::Open,
            route: None,
            leads: None,
            leasing: Leasing::default(),
            waited: Waited::Never,
        }
    }

    /// Returns the key of the next lookup.
    #[inline]
    pub(crate) fn key(&self) -> &CacheKey {
        self.facts.keys.get(self.round.partition)
    }

    /// Returns the key of the first lookup.
    #[inline]
    pub(crate) fn first_key(&self) -> &CacheKey {
        self.facts.keys.first()
    }

    /// Returns the part of the response that is requested from the handler.
    #[inline]
    pub(crate) fn wanted(&self) -> Wanted {
        match self.refreshes() {
            true => Wanted::Whole,
            false => self.facts.wanted,
        }
    }

    /// Returns `true` if the request refreshes, in the background, a stale response that was
    /// already served.
    #[inline]
    pub(crate) fn refreshes(&self) -> bool {
        self.role == LookupRole::Refreshes
    }

    /// Returns the stored response that cannot be served without validation, if there is one.
    #[inline]
    pub(crate) fn stale(&self) -> Option<&Stale> {
        match &self.round.finding {
            Finding::Stale(stale, _) => Some(stale),
            Finding::Nothing | Finding::Failed(_) => None,
        }
    }

    /// Returns the decompressed body of that response, if the client does not accept its encoding.
    pub(crate) fn stale_plain(&self) -> Option<&Bytes> {
        match &self.round.finding {
            Finding::Stale(_, plain) => plain.as_ref(),
            Finding::Nothing | Finding::Failed(_) => None,
        }
    }

    /// Returns the failure of the store, if it failed.
    #[inline]
    pub(crate) fn failure(&self) -> Option<StoreErrorKind> {
        match self.round.finding {
            Finding::Failed(kind) => Some(kind),
            Finding::Nothing | Finding::Stale(..) => None,
        }
    }

    /// Takes the lead of the flight that this request leads.
    pub(crate) fn take_lead(&mut self) -> Option<Lead> {
        self.leads.take().map(|leads| leads.lead)
    }

    /// Advances to the next partition. Returns `false` if there is none.
    pub(super) fn next_key(&mut self) -> bool {
        let round = &mut self.round;
        let more = round.partition == PartitionKind::Shared && self.facts.keys.own().is_some();
        if more {
            round.partition = PartitionKind::Own;
        }
        round.hint = None;
        more
    }

    /// Starts a new round of lookups.
    pub(super) fn start_over(&mut self, config: &Config) {
        self.round = Round::new(config, &self.facts.keys);
    }
}

impl LookupRole {
    /// Returns the role of a request after the flight for which it has waited.
    pub(super) fn after(self, landing: Landing) -> Self {
        match (self, landing) {
            (Self::Refreshes, _)
            | (Self::Filled(_), Landing::Stored)
            | (Self::Open | Self::Collapsed | Self::Alone, Landing::Abandoned) => self,
            (Self::Open | Self::Collapsed | Self::Alone, Landing::Stored) => Self::Collapsed,
            (Self::Filled(_), Landing::Abandoned) => Self::Alone,
            (
                Self::Open | Self::Collapsed | Self::Filled(_) | Self::Alone,
                Landing::NotStored | Landing::Failed,
            ) => Self::Alone,
        }
    }
}

impl Round {
    #[inline(always)]
    fn new(config: &Config, keys: &LookupKeys) -> Self {
        let looked_up = config.order.now();
        Self {
            partition: keys.first_partition(),
            hint: None,
            fence: None,
            forward: Forward::UriMiss,
            finding: Finding::Nothing,
            part: None,
            asked_at: config.clock.coarse(),
            landed: config.flights.landed(),
            shared_looked_up: looked_up,
            own_looked_up: looked_up,
        }
    }

    /// Records the fence of a lookup. The earliest one counts.
    #[inline]
    pub(super) fn note_fence(&mut self, fence: Fence) {
        self.fence = Some(self.fence.map_or(fence, |first| first.min(fence)));
    }
}

impl Waited {
    /// Starts the wait, unless it has started. Returns its start.
    pub(super) fn begin(&mut self, now: Timestamp) -> Timestamp {
        match *self {
            Self::Waits { since } | Self::Ended { since, .. } => since,
            Self::Never => {
                *self = Self::Waits { since: now };
                now
            }
        }
    }

    /// Ends a wait.
    pub(super) fn end(&mut self, now: Timestamp) {
        if let Self::Waits { since } | Self::Ended { since, .. } = *self {
            let time = now - since;
            *self = Self::Ended { since, time };
        }
    }

    /// Returns the duration of the wait, if it has ended.
    #[inline]
    pub(crate) fn time(self) -> Option<Duration> {
        match self {
            Self::Ended { time, .. } => Some(time),
            Self::Never | Self::Waits { .. } => None,
        }
    }
}
