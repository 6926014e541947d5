//! Rejections of callers: kind, titles and outcome in the access log.

use std::time::Duration;

use http::HeaderValue;

use crate::{
    api_key::key::format::KeyId,
    core::{
        error::{StoreError, StoreErrorKind},
        http::rejection::RejectionKind,
        identity::Identity,
        record::{AuthDenial, AuthOutcome},
        time::Timestamp,
    },
};

/// The rejection of a caller, as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// 401: the request has no key.
    Missing,
    /// 401: the key is not accepted. The response does not disclose why.
    Invalid,
    /// 401: the whole key is correct but not accepted. The response discloses why only if the layer
    /// is configured to.
    NotAccepted(Reason),
    /// 400: the request has more than one key.
    Ambiguous,
    /// 403: the key is accepted but lacks a scope.
    InsufficientScope,
    /// 403: the constraints of the key exclude this request. The response does not disclose which.
    Restricted,
    /// 429: too many wrong keys from this client.
    TooManyFailures { retry_after: Duration },
    /// 503: the key cannot be checked at present.
    Unavailable { retry_after: Duration },
    /// 500: the key cannot be checked until an operator intervenes.
    Internal,
}

impl Refusal {
    /// Returns the kind of the problem that the client sees.
    pub(super) fn kind(self) -> RejectionKind {
        match self {
            Self::Missing => RejectionKind::MissingCredential,
            Self::Invalid | Self::NotAccepted(_) => RejectionKind::InvalidCredential,
            Self::Ambiguous => RejectionKind::AmbiguousCredential,
            Self::InsufficientScope => RejectionKind::InsufficientScope,
            Self::Restricted => RejectionKind::RestrictedKey,
            Self::TooManyFailures { .. } => RejectionKind::TooManyAuthFailures,
            Self::Unavailable { .. } => RejectionKind::StoreUnavailable,
            Self::Internal => RejectionKind::Internal,
        }
    }
}

/// The name of a request's credential in a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// The credential has the form or the place of an API key, or the layer accepts nothing else.
    ApiKey,
    /// A token in `Authorization: Bearer`, for a verifier.
    BearerToken,
    /// Another kind of credential, or none.
    Credential,
}

impl Named {
    pub(super) fn titles(self) -> &'static Titles {
        match self {
            Self::ApiKey => &API_KEY,
            Self::BearerToken => &BEARER_TOKEN,
            Self::Credential => &CREDENTIAL,
        }
    }

    /// Returns `true` if a challenge applies to this kind of credential. The challenge of another
    /// scheme would report an error that the client did not make.
    pub(super) fn is_challenged_by(self, challenge: &HeaderValue) -> bool {
        match self {
            Self::BearerToken => challenge.as_bytes().starts_with(b"Bearer "),
            Self::ApiKey | Self::Credential => true,
        }
    }
}

/// The titles of problems for one kind of credential.
pub(super) struct Titles {
    pub(super) missing: &'static str,
    pub(super) invalid: &'static str,
    pub(super) ambiguous: &'static str,
    pub(super) restricted: &'static str,
    pub(super) insufficient: &'static str,
    pub(super) too_many: &'static str,
    pub(super) unavailable: &'static str,
    pub(super) internal: &'static str,
}

const API_KEY: Titles = Titles {
    missing: "An API key is required",
    invalid: "The API key is not valid",
    ambiguous: "The request has more than one API key",
    restricted: "The API key is not allowed for this request",
    insufficient: "The API key lacks a scope",
    too_many: "Too many API keys from this client were not valid",
    unavailable: "API keys cannot be checked at the moment",
    internal: "The API key could not be checked",
};

const BEARER_TOKEN: Titles = Titles {
    missing: "A bearer token is required",
    invalid: "The bearer token is not valid",
    ambiguous: "The request has more than one credential",
    restricted: "The bearer token is not allowed for this request",
    insufficient: "The bearer token lacks a scope",
    too_many: "Too many bearer tokens from this client were not valid",
    unavailable: "Bearer tokens cannot be checked at the moment",
    internal: "The bearer token could not be checked",
};

const CREDENTIAL: Titles = Titles {
    missing: "A credential is required",
    invalid: "The credential is not valid",
    ambiguous: "The request has more than one credential",
    restricted: "The credential is not allowed for this request",
    insufficient: "The credential lacks a scope",
    too_many: "Too many credentials from this client were not valid",
    unavailable: "Credentials cannot be checked at the moment",
    internal: "The credential could not be checked",
};

/// The reason why a correct key is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Expired,
    NotYetValid,
    Revoked,
    Disabled,
}

impl Reason {
    pub(super) const ALL: [Self; 4] = [
        Self::Expired,
        Self::NotYetValid,
        Self::Revoked,
        Self::Disabled,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "The key has expired",
            Self::NotYetValid => "The key is not valid yet",
            Self::Revoked => "The key was revoked",
            Self::Disabled => "The key is disabled",
        }
    }
}

/// A rejected caller: the response and the outcome for the access log.
#[derive(Clone, Debug)]
pub(crate) struct Denied {
    pub(crate) refusal: Refusal,
    pub(crate) outcome: AuthOutcome,
}

impl Denied {
    pub(crate) fn new(reason: AuthDenial, key_id: Option<KeyId>) -> Self {
        let refusal = match reason {
            AuthDenial::Missing => Refusal::Missing,
            AuthDenial::Ambiguous => Refusal::Ambiguous,
            AuthDenial::MissingScope => Refusal::InsufficientScope,
            AuthDenial::Restricted => Refusal::Restricted,
            AuthDenial::Expired => Refusal::NotAccepted(Reason::Expired),
            AuthDenial::NotYetValid => Refusal::NotAccepted(Reason::NotYetValid),
            AuthDenial::Revoked => Refusal::NotAccepted(Reason::Revoked),
            AuthDenial::Disabled => Refusal::NotAccepted(Reason::Disabled),
            AuthDenial::Malformed | AuthDenial::Unknown | AuthDenial::TooManyFailures => {
                Refusal::Invalid
            }
        };
        Self {
            refusal,
            outcome: AuthOutcome::Denied {
                reason,
                key_id: key_id.map(|id| id.as_str().into()),
            },
        }
    }

    pub(crate) fn missing_scope(caller: &Identity) -> Self {
        Self {
            refusal: Refusal::InsufficientScope,
            outcome: AuthOutcome::Denied {
                reason: AuthDenial::MissingScope,
                key_id: Some(caller.key_id().into()),
            },
        }
    }

    pub(crate) fn too_many_failures(retry_after: Duration) -> Self {
        Self {
            refusal: Refusal::TooManyFailures { retry_after },
            ..Self::new(AuthDenial::TooManyFailures, None)
        }
    }

    /// Returns `true` if the secret was wrong or the key unknown.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(
            self.outcome,
            AuthOutcome::Denied {
                reason: AuthDenial::Unknown,
                ..
            }
        )
    }

    /// Returns `true` if the key was accepted but not for this request.
    pub(crate) fn is_of_good_key(&self) -> bool {
        matches!(
            self.refusal,
            Refusal::InsufficientScope | Refusal::Restricted
        )
    }

    /// Returns `true` if the credential has an unknown format.
    pub(super) fn is_malformed(&self) -> bool {
        matches!(
            self.outcome,
            AuthOutcome::Denied {
                reason: AuthDenial::Malformed,
                ..
            }
        )
    }

    /// Maps a store failure to `503` if it is transient, and to `500` otherwise.
    pub(crate) fn store_failed(error: &StoreError, now: Timestamp) -> Self {
        let refusal = if error.is_transient() {
            // The last digits of the clock spread the retries of concurrent callers.
            let spread = now.as_micros() % 4;
            Refusal::Unavailable {
                retry_after: Duration::from_secs(1 + spread),
            }
        } else {
            Refusal::Internal
        };
        Self {
            refusal,
            outcome: AuthOutcome::StoreFailed(error.kind()),
        }
    }

    /// A fault of this process: a pepper that is not configured, or a verifier that panicked.
    pub(crate) fn internal() -> Self {
        Self {
            refusal: Refusal::Internal,
            outcome: AuthOutcome::StoreFailed(StoreErrorKind::Misconfigured),
        }
    }
}
