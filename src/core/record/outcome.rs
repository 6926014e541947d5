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
        /// The reason, intended for the operator. The caller receives less detail.
        reason: AuthDenial,
        /// The public id of the key, if the entire key was correct.
        key_id: Option<Arc<str>>,
    },
    /// The key store failed.
    StoreFailed(StoreErrorKind),
}

impl AuthOutcome {
    /// Returns the name of the outcome as it appears in the record.
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
    /// The request contained two keys, or one key in two places.
    Ambiguous,
    /// The key does not belong to this service, because its format or its checksum is wrong.
    Malformed,
    /// The key is well-formed, but either the store does not contain the key or the secret is
    /// wrong.
    Unknown,
    /// The key has expired.
    Expired,
    /// The key is not yet valid.
    NotYetValid,
    /// The key was revoked.
    Revoked,
    /// The key is disabled.
    Disabled,
    /// The key lacks a scope.
    MissingScope,
    /// The key is not permitted for this client address, origin or method.
    Restricted,
    /// The client has presented too many invalid keys.
    TooManyFailures,
}

impl AuthDenial {
    /// Returns the name of the reason as it appears in the record.
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

/// The outcome of a rate limiter. The response contains the outcome as an extension if the limiter
/// rejected the request or if the request has a record.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateLimitOutcome {
    /// The decision of the limiter.
    pub decision: RateLimitDecision,
    pub(crate) policies: SmallVec<[PolicyOutcome; 2]>,
    /// The time that the request waited in a queue before it was admitted.
    pub delayed: Duration,
}

impl RateLimitOutcome {
    /// Creates an outcome without a delay.
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

    /// Returns the outcome of each policy, in configuration order.
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
    /// The store failed, and the limiter is configured to admit requests in that case.
    FailedOpen(StoreErrorKind),
    /// The store failed, and the limiter is configured to reject requests in that case.
    FailedClosed(StoreErrorKind),
}

impl RateLimitDecision {
    /// Returns the name of the decision as it appears in the record.
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

    /// Returns the kind of store failure, if the store failed.
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
    /// The quota of the policy per window.
    pub limit: u64,
    /// The remaining quota, which is at most the limit.
    pub remaining: u64,
    /// `true` if this policy rejected the request.
    pub denied: bool,
    /// The time until the same request would be admitted. `None` if the request was admitted or can
    /// never be admitted.
    pub retry_after: Option<Duration>,
    /// The time until the entire quota is available again, if nothing more is charged.
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

/// The outcome of the cache. The cache also inserts the outcome into the response's extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheOutcome {
    /// The source of the response.
    pub source: CacheSource,
    /// The reason why the response was not served from the cache or was not stored. The terms of
    /// RFC 9211 are used where they exist.
    pub detail: Option<&'static str>,
    /// The remaining freshness lifetime in seconds. Negative for a stale response.
    pub ttl_secs: Option<i64>,
    /// `true` if the response is being stored.
    pub stored: bool,
    /// `true` if the request was collapsed with another request.
    pub collapsed: bool,
    /// The time that the request waited for another request's response, whether or not that
    /// response was used.
    pub waited: Option<Duration>,
    /// A part of the digest with which the request was first looked up. It is equal for requests
    /// that can share a response. The request cannot be derived from the digest.
    pub key_hash: Option<[u8; 8]>,
}

impl CacheOutcome {
    /// Creates an outcome that contains only this source.
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
    /// The response came from the cache and was fresh. The handler was not called.
    Hit,
    /// The response came from the cache and was stale. The response or the configuration permits
    /// serving stale responses.
    Stale,
    /// The response came from the cache, and the handler confirmed that the response had not
    /// changed.
    Revalidated,
    /// The response came from the handler because no cached response matched.
    Miss,
    /// The response came from the handler because the request bypassed the cache.
    Bypass,
    /// The response came from the handler because the store failed.
    StoreFailed(StoreErrorKind),
}

impl CacheSource {
    /// Returns the name of the source as it appears in the record.
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
