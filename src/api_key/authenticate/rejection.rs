//! How a caller is turned away: status, challenge and words, the same for all that must not be
//! told apart.

use std::time::Duration;

use http::{HeaderValue, StatusCode, header::WWW_AUTHENTICATE};

use crate::{
    api_key::key::format::KeyId,
    core::{
        error::{ConfigError, StoreError, StoreErrorKind},
        http::rejection::Rejection,
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
    fn titles(self) -> &'static Titles {
        match self {
            Self::ApiKey => &API_KEY,
            Self::BearerToken => &BEARER_TOKEN,
            Self::Credential => &CREDENTIAL,
        }
    }

    /// Returns whether a challenge is for a credential of this kind: another scheme's would tell the
    /// client of an error that it did not make.
    fn is_challenged_by(self, challenge: &HeaderValue) -> bool {
        match self {
            Self::BearerToken => challenge.as_bytes().starts_with(b"Bearer "),
            Self::ApiKey | Self::Credential => true,
        }
    }
}

/// The titles of problems, with the credential's name in them.
struct Titles {
    missing: &'static str,
    invalid: &'static str,
    ambiguous: &'static str,
    restricted: &'static str,
    insufficient: &'static str,
    too_many: &'static str,
    unavailable: &'static str,
    internal: &'static str,
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
    const ALL: [Self; 4] = [
        Self::Expired,
        Self::NotYetValid,
        Self::Revoked,
        Self::Disabled,
    ];

    fn as_str(self) -> &'static str {
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

const INVALID_TOKEN: &str = ", error=\"invalid_token\"";

/// The challenges of a layer, written once.
#[derive(Clone, Debug)]
pub(crate) struct Challenges {
    missing: Vec<HeaderValue>,
    invalid: Vec<HeaderValue>,
    /// What the holder of a key is told of its state, if it is: in the order of [`Reason::ALL`].
    not_accepted: Option<[Vec<HeaderValue>; 4]>,
    ambiguous: Vec<HeaderValue>,
    insufficient: Vec<HeaderValue>,
    /// Whether who may not is told that there is nothing.
    hides_forbidden: bool,
}

impl Challenges {
    /// Writes a challenge for each scheme, the first one first, a line for each: readers that know
    /// one challenge alone find theirs.
    pub(crate) fn new(schemes: &[&str], realm: &str, scopes: &str) -> Result<Self, ConfigError> {
        let realm = quoted(realm)?;
        let lines = |attributes: &str| -> Vec<HeaderValue> {
            schemes
                .iter()
                .map(|scheme| {
                    HeaderValue::try_from(format!("{scheme} realm={realm}{attributes}"))
                        .expect("a scheme, a quoted realm and our attributes are visible ASCII")
                })
                .collect()
        };
        let scope = if scopes.is_empty() {
            String::new()
        } else {
            format!(", scope=\"{scopes}\"")
        };
        Ok(Self {
            missing: lines(""),
            invalid: lines(INVALID_TOKEN),
            not_accepted: None,
            ambiguous: lines(", error=\"invalid_request\""),
            insufficient: lines(&format!(", error=\"insufficient_scope\"{scope}")),
            hides_forbidden: false,
        })
    }

    /// Tells who holds a whole key why it is not accepted (RFC 6750 section 3).
    pub(crate) fn disclosing_state(mut self, discloses: bool) -> Self {
        let described = |reason: Reason| {
            let attributes = format!("{INVALID_TOKEN}, error_description=\"{}\"", reason.as_str());
            let of_scheme = |line: &HeaderValue| {
                let bare = line.to_str().expect("a challenge is visible ASCII");
                HeaderValue::try_from(format!("{bare}{attributes}")).expect("and so is this one")
            };
            self.missing.iter().map(of_scheme).collect()
        };
        self.not_accepted = discloses.then(|| Reason::ALL.map(described));
        self
    }

    /// Says that there is nothing, where a caller may not (RFC 9110 section 15.5.4).
    pub(crate) fn hiding_forbidden(mut self, hides: bool) -> Self {
        self.hides_forbidden = hides;
        self
    }

    pub(crate) fn hides_forbidden(&self) -> bool {
        self.hides_forbidden
    }

    /// Returns the challenge of a key that is no good, or not accepted.
    fn invalid_for(&self, refusal: Refusal) -> &[HeaderValue] {
        match (&self.not_accepted, refusal) {
            (Some(lines), Refusal::NotAccepted(reason)) => &lines[reason as usize],
            (Some(_) | None, _) => &self.invalid,
        }
    }

    /// Returns what the caller is told.
    pub(crate) fn rejection(&self, refusal: Refusal, named: Named) -> Rejection {
        let titles = named.titles();
        let (status, problem, title, challenges): (_, _, _, &[_]) = match refusal {
            Refusal::Missing => (
                StatusCode::UNAUTHORIZED,
                "missing-credentials",
                titles.missing,
                &self.missing,
            ),
            Refusal::Invalid | Refusal::NotAccepted(_) => (
                StatusCode::UNAUTHORIZED,
                "invalid-credentials",
                titles.invalid,
                self.invalid_for(refusal),
            ),
            Refusal::Ambiguous => (
                StatusCode::BAD_REQUEST,
                "ambiguous-credentials",
                titles.ambiguous,
                &self.ambiguous,
            ),
            Refusal::InsufficientScope | Refusal::Restricted if self.hides_forbidden => (
                StatusCode::NOT_FOUND,
                "not-found",
                "There is nothing here",
                &[],
            ),
            Refusal::Restricted => (
                StatusCode::FORBIDDEN,
                "key-restricted",
                titles.restricted,
                &[],
            ),
            Refusal::InsufficientScope => (
                StatusCode::FORBIDDEN,
                "insufficient-scope",
                titles.insufficient,
                &self.insufficient,
            ),
            Refusal::TooManyFailures { .. } => (
                StatusCode::TOO_MANY_REQUESTS,
                "too-many-auth-failures",
                titles.too_many,
                &[],
            ),
            Refusal::Unavailable { .. } => (
                StatusCode::SERVICE_UNAVAILABLE,
                "auth-unavailable",
                titles.unavailable,
                &[],
            ),
            Refusal::Internal => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                titles.internal,
                &[],
            ),
        };
        let challenges = challenges
            .iter()
            .filter(|line| named.is_challenged_by(line));
        let rejection = challenges.fold(
            Rejection::new(status, problem, title),
            |rejection, challenge| rejection.header(WWW_AUTHENTICATE, challenge.clone()),
        );
        match refusal {
            Refusal::Unavailable { retry_after } | Refusal::TooManyFailures { retry_after } => {
                rejection.retry_after(retry_after)
            }
            Refusal::Missing
            | Refusal::Invalid
            | Refusal::NotAccepted(_)
            | Refusal::Ambiguous
            | Refusal::InsufficientScope
            | Refusal::Restricted
            | Refusal::Internal => rejection,
        }
    }
}

/// Returns a realm as a quoted string (RFC 9110 section 5.6.4).
fn quoted(realm: &str) -> Result<String, ConfigError> {
    if realm.is_empty() || !realm.bytes().all(|byte| (0x20..=0x7e).contains(&byte)) {
        return Err(ConfigError::new(
            "realm",
            realm.escape_debug(),
            "a realm is one or more printable ASCII characters",
        )
        .fix("name the API, as in `api`"));
    }
    let escaped = realm.replace('\\', r"\\").replace('"', "\\\"");
    Ok(format!("\"{escaped}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_scheme_has_its_line_and_a_missing_key_no_error() {
        let challenges = Challenges::new(&["Bearer", "ApiKey"], "a \"b\\", "x y").unwrap();
        let lines = |refusal| -> Vec<String> {
            let rejection = challenges.rejection(refusal, Named::ApiKey);
            let lines = rejection.headers().get_all(WWW_AUTHENTICATE).iter();
            lines
                .map(|line| line.to_str().unwrap().to_owned())
                .collect()
        };
        assert_eq!(
            lines(Refusal::Missing),
            [r#"Bearer realm="a \"b\\""#, r#"ApiKey realm="a \"b\\""#]
        );
        assert_eq!(
            lines(Refusal::InsufficientScope)[0],
            r#"Bearer realm="a \"b\\", error="insufficient_scope", scope="x y""#
        );
        assert!(lines(Refusal::Internal).is_empty());
    }

    #[test]
    fn a_realm_that_would_break_a_header_is_refused() {
        assert!(Challenges::new(&["Bearer"], "a\r\nb", "").is_err());
        assert!(Challenges::new(&["Bearer"], "", "").is_err());
    }
}
