//! The facts of a request that can be served from the store.

use http::{
    HeaderMap,
    header::{IF_MATCH, IF_UNMODIFIED_SINCE},
};

use crate::cache::{
    config::Config,
    entry::key::CacheKey,
    http::{
        cache_control::RequestDirectives,
        request_facts::{Facts, MethodClass},
        storability::RequestCaller,
    },
    policy::policy::CachePolicy,
};

/// The facts of a request that can be served from the store. They are read once and never change.
pub(crate) struct RequestFacts {
    /// The policy of the route.
    pub(crate) policy: Option<CachePolicy>,
    pub(crate) caller: RequestCaller,
    pub(crate) keys: LookupKeys,
    /// The part of the response that the client requests.
    pub(super) wanted: Wanted,
    /// `true` if it has `If-Match` or `If-Unmodified-Since`, which the origin evaluates (RFC 9111
    /// section 4.3.2).
    pub(crate) precondition: bool,
    /// The cache directives of the request. Empty if they are not honored.
    pub(crate) asks: RequestDirectives,
}

/// The keys under which a response can be stored, in the order of their lookup.
pub(crate) enum LookupKeys {
    /// In the shared partition alone.
    Shared(CacheKey),
    /// In the caller's own partition alone.
    Own(CacheKey),
    /// In the shared partition, or in the caller's own.
    Both { shared: CacheKey, own: CacheKey },
}

/// A partition of the store, as one request sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PartitionKind {
    /// The shared partition.
    Shared,
    /// The caller's own partition.
    Own,
}

/// The part of a response that a client requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The whole response.
    Whole,
    /// The response to a GET with a condition.
    Conditional,
    /// The response to a GET with `Range`, with or without a condition.
    Range,
    /// The head.
    Head,
    /// The head, for a HEAD with a condition or with `Range`.
    ConditionalHead,
}

impl RequestFacts {
    // Inlined into the caller: the value is large, and is built in place.
    #[inline(always)]
    pub(super) fn new(
        config: &Config,
        facts: &Facts<'_>,
        shared: CacheKey,
        caller: RequestCaller,
        policy: Option<CachePolicy>,
        headers: &HeaderMap,
    ) -> Self {
        // A further credential header can name another principal on whose behalf the caller acts.
        let credentials = facts.credential.then(|| {
            let options = policy.as_ref().map(CachePolicy::options);
            let by_route = options.and_then(|options| options.credentials.as_ref());
            let names = by_route.unwrap_or(&config.rules.credential_headers);
            (names.as_slice(), headers)
        });
        let own = |digest| config.keys.own(&shared, digest, credentials);
        let keys = match &caller {
            RequestCaller::Anonymous | RequestCaller::Unvouched => LookupKeys::Shared(shared),
            RequestCaller::Known {
                digest,
                share_public_responses: true,
            } => LookupKeys::Both {
                own: own(digest),
                shared,
            },
            RequestCaller::Known {
                digest,
                share_public_responses: false,
            } => LookupKeys::Own(own(digest)),
        };
        Self {
            policy,
            caller,
            keys,
            wanted: Wanted::of(facts),
            precondition: facts.condition
                && (headers.contains_key(IF_MATCH) || headers.contains_key(IF_UNMODIFIED_SINCE)),
            asks: match config.rules.honor_request_directives {
                true => RequestDirectives::of(headers),
                false => RequestDirectives::default(),
            },
        }
    }
}

impl LookupKeys {
    /// Returns the key that is looked up first.
    #[inline]
    pub(crate) fn first(&self) -> &CacheKey {
        match self {
            Self::Shared(key) | Self::Own(key) | Self::Both { shared: key, .. } => key,
        }
    }

    /// Returns the partition that is looked up first.
    #[inline]
    pub(super) fn first_partition(&self) -> PartitionKind {
        match self {
            Self::Shared(_) | Self::Both { .. } => PartitionKind::Shared,
            Self::Own(_) => PartitionKind::Own,
        }
    }

    /// Returns the key in a partition, or the only key.
    #[inline]
    pub(crate) fn get(&self, partition: PartitionKind) -> &CacheKey {
        match (self, partition) {
            (Self::Both { own, .. }, PartitionKind::Own) => own,
            (Self::Both { shared, .. }, PartitionKind::Shared) => shared,
            (Self::Shared(key) | Self::Own(key), _) => key,
        }
    }

    /// Returns the key in the shared partition, if it is looked up.
    pub(crate) fn shared(&self) -> Option<&CacheKey> {
        match self {
            Self::Shared(key) | Self::Both { shared: key, .. } => Some(key),
            Self::Own(_) => None,
        }
    }

    /// Returns the key in the caller's own partition, if it has one.
    pub(crate) fn own(&self) -> Option<&CacheKey> {
        match self {
            Self::Own(key) | Self::Both { own: key, .. } => Some(key),
            Self::Shared(_) => None,
        }
    }

    /// Returns all keys.
    pub(crate) fn all(&self) -> impl Iterator<Item = &CacheKey> {
        self.shared().into_iter().chain(self.own())
    }

    /// Returns the key in the other partition than that of this key, if there is one.
    pub(crate) fn other(&self, key: &CacheKey) -> Option<&CacheKey> {
        self.all().find(|other| *other != key)
    }

    /// Returns the partition of a key, if the key is one of these.
    pub(super) fn partition_of(&self, key: &CacheKey) -> Option<PartitionKind> {
        match (self.shared(), self.own()) {
            (Some(shared), _) if shared == key => Some(PartitionKind::Shared),
            (_, Some(own)) if own == key => Some(PartitionKind::Own),
            (_, _) => None,
        }
    }
}

impl Wanted {
    fn of(facts: &Facts<'_>) -> Self {
        let is_selective = facts.condition || facts.range;
        match facts.method == MethodClass::Head {
            true if is_selective => Self::ConditionalHead,
            true => Self::Head,
            false if facts.range => Self::Range,
            false if is_selective => Self::Conditional,
            false => Self::Whole,
        }
    }

    /// Returns `true` if the client requests the head alone.
    #[inline]
    pub(crate) fn is_head(self) -> bool {
        matches!(self, Self::Head | Self::ConditionalHead)
    }

    /// Returns `true` if the request has a condition or `Range`.
    #[inline]
    pub(crate) fn is_selective(self) -> bool {
        matches!(
            self,
            Self::Conditional | Self::Range | Self::ConditionalHead
        )
    }
}
