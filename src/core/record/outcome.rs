//! The outcomes of the layers.

use std::{sync::Arc, time::Duration};

use smallvec::SmallVec;

use crate::core::{error::StoreErrorKind, identity::Identity};

/// The outcome of authentication.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AuthOutcome {
    /// The caller is authenticated.
    Allowed(Identity),
    /// No credential was presented, and none was required.
    Anonymous,
    /// The caller was rejected.
    Denied {
        /// The reason for the operator. The caller sees less detail.
        reason: AuthDenial,
        /// The public id of the key, if the whole key was correct.
        key_id: Option<Arc<str>>,
    },
    /// The store of keys failed.
    StoreFailed(StoreErrorKind),
}

impl AuthOutcome {
    /// Returns the name of the outcome in the record.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Allowed(_) => "allowed",
            Self::Anonymous => "anonymous",
            Self::Denied { .. } => "denied",
            Self::StoreFailed(_) => "error",
        }
    }
}

/// The reason why a caller was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AuthDenial {
    /// No key was presented.
    Missing,
    /// There were two keys, or a key in two places.
    Ambiguous,
    /// The key is not of this service: its format or its checksum is wrong.
    Malformed,
    /// The key is well-formed, but unknown to the store, or its secret is wrong.
    Unknown,
    /// The key has expired.
    Expired,
    /// The key is not valid yet.
    NotYetValid,
    /// The key was revoked.
    Revoked,
    /// The key is disabled.
    Disabled,
    /// The key lacks a scope.
    MissingScope,
    /// The key is not permitted for this address, origin or method.
    Restricted,
    /// The client has presented too many wrong keys.
    TooManyFailures,
}

impl AuthDenial {
    /// Returns the name of the reason in the record.
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

/// The outcome of a rate limiter. It is also an extension of the response if the limiter rejects
/// the request, and if there is a record.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateLimitOutcome {
    /// The decision.
    pub decision: RateLimitDecision,
    pub(crate) policies: SmallVec<[PolicyOutcome; 2]>,
    /// The time that the request waited in a queue before it was admitted.
    pub delayed: Duration,
}

impl RateLimitOutcome {
    /// Creates an outcome without a wait.
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

    /// Returns the outcome of each policy, in the order of the configuration.
    pub fn policies(&self) -> &[PolicyOutcome] {
        &self.policies
    }
}

/// The decision of a rate limiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RateLimitDecision {
    /// The request was admitted and charged.
    Allowed,
    /// The request was rejected and not charged.
    Denied,
    /// No policy applied to the request.
    Skipped,
    /// The store failed. A local limiter admitted and charged the request.
    LocallyAllowed(StoreErrorKind),
    /// The store failed. A local limiter rejected the request.
    LocallyDenied(StoreErrorKind),
    /// The store failed, and the limiter is configured to admit requests then.
    FailedOpen(StoreErrorKind),
    /// The store failed, and the limiter is configured to reject requests then.
    FailedClosed(StoreErrorKind),
}

impl RateLimitDecision {
    /// Returns the name of the decision in the record.
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

    /// Returns the kind of the store's failure, if it failed.
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

/// The outcome of one policy for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PolicyOutcome {
    /// The name of the policy.
    pub policy: Arc<str>,
    /// The quota of the policy in a window.
    pub limit: u64,
    /// The remaining quota, at most the limit.
    pub remaining: u64,
    /// `true` if this policy rejected the request.
    pub denied: bool,
    /// The time until the same request would be admitted. `None` if it was admitted, or never will
    /// be.
    pub retry_after: Option<Duration>,
    /// The time until the whole quota is available, if nothing more is used.
    pub reset_after: Duration,
}

impl PolicyOutcome {
    /// Creates the outcome of a policy that admits the request.
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

    /// Creates the outcome of a policy that rejects the request.
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

/// The outcome of the cache, also an extension of the response.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheOutcome {
    /// The source of the response.
    pub source: CacheSource,
    /// The reason why the response was not served from the cache or not stored, in the terms of RFC
    /// 9211 if it defines one.
    pub detail: Option<&'static str>,
    /// The remaining freshness in seconds; negative for a stale response.
    pub ttl_secs: Option<i64>,
    /// `true` if the response is being stored.
    pub stored: bool,
    /// `true` if the request was collapsed with another one.
    pub collapsed: bool,
    /// The time that the request waited for the response to another one, whether or not it was
    /// used.
    pub waited: Option<Duration>,
    /// A part of the digest of the first lookup, which is equal for requests that can share a
    /// response. The request cannot be derived from it.
    pub key_hash: Option<[u8; 8]>,
}

impl CacheOutcome {
    /// Creates an outcome with this source only.
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

/// The source of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CacheSource {
    /// The cache, fresh. The handler was not called.
    Hit,
    /// The cache, stale. The response or the configuration permits it.
    Stale,
    /// The cache, after the handler confirmed that the response has not changed.
    Revalidated,
    /// The handler, since no cached response matched.
    Miss,
    /// The handler, since the request bypassed the cache.
    Bypass,
    /// The handler, since the store failed.
    StoreFailed(StoreErrorKind),
}

impl CacheSource {
    /// Returns the name of the source in the record.
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
