//! The outcomes of the layers.

use std::{sync::Arc, time::Duration};

use smallvec::SmallVec;

use crate::core::{error::StoreErrorKind, identity::Identity};

/// What authentication found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AuthOutcome {
    /// The caller is known.
    Allowed(Identity),
    /// Nothing was presented, and nothing was required.
    Anonymous,
    /// The caller was turned away.
    Denied {
        /// Why, for the operator's eyes; the caller is told less.
        reason: AuthDenial,
        /// The public id of the key, where the whole key was right.
        key_id: Option<Arc<str>>,
    },
    /// The store of keys could not say.
    StoreFailed(StoreErrorKind),
}

impl AuthOutcome {
    /// Returns the outcome's name in the record.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Allowed(_) => "allowed",
            Self::Anonymous => "anonymous",
            Self::Denied { .. } => "denied",
            Self::StoreFailed(_) => "error",
        }
    }
}

/// Why a caller was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AuthDenial {
    /// No key was presented.
    Missing,
    /// Two keys, or a key in two places.
    Ambiguous,
    /// Not a key of ours: its form or its checksum is wrong.
    Malformed,
    /// A well-formed key that the store does not know, or whose secret is wrong.
    Unknown,
    /// The key's time is over.
    Expired,
    /// The key's time has not begun.
    NotYetValid,
    /// The key was revoked.
    Revoked,
    /// The key is switched off for the time being.
    Disabled,
    /// The key lacks a scope.
    MissingScope,
    /// The key may not be used from this address, origin or method.
    Restricted,
    /// The client has presented too many wrong keys.
    TooManyFailures,
}

impl AuthDenial {
    /// Returns the reason's name in the record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Ambiguous => "ambiguous",
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Revoked => "revoked",
            Self::Disabled => "disabled",
            Self::MissingScope => "missing_scope",
            Self::Restricted => "restricted",
            Self::TooManyFailures => "too_many_failures",
        }
    }
}

/// What a limiter decided. Also in the extensions of the response, where the limiter puts it when
/// it denies, and when a record is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateLimitOutcome {
    /// What was decided.
    pub decision: RateLimitDecision,
    /// What each policy said, in the order of the configuration.
    pub policies: SmallVec<[PolicyOutcome; 2]>,
    /// How long the request was made to wait for its turn in a queue, before it went on.
    pub delayed: Duration,
}

impl RateLimitOutcome {
    /// Creates an outcome.
    pub fn new(
        decision: RateLimitDecision,
        policies: impl IntoIterator<Item = PolicyOutcome>,
    ) -> Self {
        Self {
            decision,
            policies: policies.into_iter().collect(),
            delayed: Duration::ZERO,
        }
    }
}

/// The decisions of a limiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RateLimitDecision {
    /// The request was admitted, and charged.
    Allowed,
    /// The request was turned away, and charged to nobody.
    Denied,
    /// No policy applied to the request.
    Skipped,
    /// The store failed; a local one was asked in its place, and admitted and charged the request.
    LocallyAllowed(StoreErrorKind),
    /// The store failed; a local one was asked in its place, and turned the request away.
    LocallyDenied(StoreErrorKind),
    /// The store failed, and the policy admits then.
    FailedOpen(StoreErrorKind),
    /// The store failed, and the policy turns away then.
    FailedClosed(StoreErrorKind),
}

impl RateLimitDecision {
    /// Returns the decision's name in the record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "limited",
            Self::Skipped => "skipped",
            Self::LocallyAllowed(_) => "local_allowed",
            Self::LocallyDenied(_) => "local_limited",
            Self::FailedOpen(_) => "error_open",
            Self::FailedClosed(_) => "error_closed",
        }
    }

    /// Returns how the store failed, if it did.
    pub fn store_error(self) -> Option<StoreErrorKind> {
        match self {
            Self::LocallyAllowed(kind)
            | Self::LocallyDenied(kind)
            | Self::FailedOpen(kind)
            | Self::FailedClosed(kind) => Some(kind),
            Self::Allowed | Self::Denied | Self::Skipped => None,
        }
    }
}

/// What one policy said of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PolicyOutcome {
    /// The policy's name.
    pub policy: Arc<str>,
    /// How much the policy admits in a window.
    pub limit: u64,
    /// How much is left of it now; never more than the limit.
    pub remaining: u64,
    /// Whether this policy denied.
    pub denied: bool,
    /// How long until the same request would be admitted. `None` if it was, and if it never will.
    pub retry_after: Option<Duration>,
    /// How long until the quota is whole again, if nothing more is spent.
    pub reset_after: Duration,
}

impl PolicyOutcome {
    /// Creates what a policy says that admits.
    pub fn allowed(policy: Arc<str>, limit: u64, remaining: u64, reset_after: Duration) -> Self {
        Self {
            policy,
            limit,
            remaining,
            denied: false,
            retry_after: None,
            reset_after,
        }
    }

    /// Creates what a policy says that denies.
    pub fn denied(
        policy: Arc<str>,
        limit: u64,
        remaining: u64,
        retry_after: Option<Duration>,
        reset_after: Duration,
    ) -> Self {
        Self {
            policy,
            limit,
            remaining,
            denied: true,
            retry_after,
            reset_after,
        }
    }
}

/// What the cache did. Also in the extensions of the response.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheOutcome {
    /// Where the answer came from.
    pub source: CacheSource,
    /// Why it was not answered from the store, or not stored, in the words of RFC 9211 where it
    /// has some.
    pub detail: Option<&'static str>,
    /// For how many seconds the answer stays fresh; negative once it is stale.
    pub ttl_secs: Option<i64>,
    /// Whether the answer is being stored.
    pub stored: bool,
    /// Whether the request waited for another one's answer.
    pub collapsed: bool,
    /// The time that the request waited for the response to another one, whether or not it was used.
    pub waited: Option<Duration>,
    /// A part of the digest under which the store was asked first: equal for requests that may have
    /// the same answer. Nothing can be read back from it.
    pub key_hash: Option<[u8; 8]>,
}

impl CacheOutcome {
    /// Creates an outcome that says where the answer came from, and no more.
    pub fn new(source: CacheSource) -> Self {
        Self {
            source,
            detail: None,
            ttl_secs: None,
            stored: false,
            collapsed: false,
            waited: None,
            key_hash: None,
        }
    }
}

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CacheSource {
    /// From the store, fresh: the handler was not called.
    Hit,
    /// From the store, stale: allowed by the response or the configuration.
    Stale,
    /// From the store, after the handler said that nothing has changed.
    Revalidated,
    /// From the handler: the store had nothing that fits.
    Miss,
    /// From the handler: the request was none for the cache.
    Bypass,
    /// From the handler: the store failed.
    StoreFailed(StoreErrorKind),
}

impl CacheSource {
    /// Returns the source's name in the record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Stale => "stale",
            Self::Revalidated => "revalidated",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
            Self::StoreFailed(_) => "error",
        }
    }
}
