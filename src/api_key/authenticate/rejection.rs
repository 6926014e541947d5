//! The refusal of a caller: its kind, its titles, and its outcome in the record.

use std::time::Duration;

use http::HeaderValue;

use crate::{
    api_key::key::format::KeyId,
    core::{
        error::{StoreError, StoreErrorKind},
        identity::Identity,
        record::{AuthDenial, AuthOutcome},
        time::Timestamp,
    },
};

/// What a caller is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// 401: there is no key.
    Missing,
    /// 401: the key is no good. Nothing tells why.
    Invalid,
    /// 401: the whole key is right, and not accepted. Nothing tells why, unless the layer is told to.
    NotAccepted(Reason),
    /// 400: there is more than one key.
    Ambiguous,
    /// 403: the key is good, but not for this.
    InsufficientScope,
    /// 403: the key is good, but not from here or not for this. Nothing tells which.
    Restricted,
    /// 429: too many keys from this client were no good.
    TooManyFailures { retry_after: Duration },
    /// 503: nobody knows at the moment.
    Unavailable { retry_after: Duration },
    /// 500: nobody will know until an operator looks.
    Internal,
}

/// The name of a request's credential in a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// It has the form or the place of an API key, or the layer takes nothing else.
    ApiKey,
    /// It is a token in `Authorization: Bearer`, for a verifier.
    BearerToken,
    /// It is something else, or there is none.
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

    /// Returns whether a challenge is for a credential of this kind: another scheme's would tell the
    /// client of an error that it did not make.
    pub(super) fn is_challenged_by(self, challenge: &HeaderValue) -> bool {
        match self {
            Self::BearerToken => challenge.as_bytes().starts_with(b"Bearer "),
            Self::ApiKey | Self::Credential => true,
        }
    }
}

/// The titles of problems, with the credential's name in them.
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
    ambiguous: "The request bears more than one API key",
    restricted: "The API key may not be used so",
    insufficient: "The API key lacks a scope",
    too_many: "Too many API keys from this client were not valid",
    unavailable: "API keys cannot be checked at the moment",
    internal: "The API key could not be checked",
};

const BEARER_TOKEN: Titles = Titles {
    missing: "A bearer token is required",
    invalid: "The bearer token is not valid",
    ambiguous: "The request bears more than one credential",
    restricted: "The bearer token may not be used so",
    insufficient: "The bearer token lacks a scope",
    too_many: "Too many bearer tokens from this client were not valid",
    unavailable: "Bearer tokens cannot be checked at the moment",
    internal: "The bearer token could not be checked",
};

const CREDENTIAL: Titles = Titles {
    missing: "A credential is required",
    invalid: "The credential is not valid",
    ambiguous: "The request bears more than one credential",
    restricted: "The credential may not be used so",
    insufficient: "The credential lacks a scope",
    too_many: "Too many credentials from this client were not valid",
    unavailable: "Credentials cannot be checked at the moment",
    internal: "The credential could not be checked",
};

/// Why a key that is right is not accepted.
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

/// A caller turned away: what it is told, and what the record says.
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

    /// Returns whether the secret was wrong, or the key not known.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(
            self.outcome,
            AuthOutcome::Denied {
                reason: AuthDenial::Unknown,
                ..
            }
        )
    }

    /// Returns whether the key was right and accepted, but not for this request.
    pub(crate) fn is_of_good_key(&self) -> bool {
        matches!(
            self.refusal,
            Refusal::InsufficientScope | Refusal::Restricted
        )
    }

    /// Returns whether nobody can read the credential.
    pub(super) fn is_malformed(&self) -> bool {
        matches!(
            self.outcome,
            AuthOutcome::Denied {
                reason: AuthDenial::Malformed,
                ..
            }
        )
    }

    /// A store that may answer later is no fault of the caller's, and neither is one that will not.
    pub(crate) fn store_failed(error: &StoreError, now: Timestamp) -> Self {
        let refusal = if error.is_transient() {
            // The clock's last digits spread the callers: they do not come back all at once.
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

    /// The fault is this process's: a pepper that it was not given, a verifier that panicked.
    pub(crate) fn internal() -> Self {
        Self {
            refusal: Refusal::Internal,
            outcome: AuthOutcome::StoreFailed(StoreErrorKind::Misconfigured),
        }
    }
}
