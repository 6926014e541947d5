//! Responses to rejected requests, with the challenges of a layer.

use http::{HeaderValue, StatusCode, header::WWW_AUTHENTICATE};

use super::rejection::{Named, Reason, Refusal, Titles};
use crate::core::{error::ConfigError, http::rejection::Rejection};

const INVALID_TOKEN: &str = ", error=\"invalid_token\"";

/// The serialized challenges of a layer.
#[derive(Clone, Debug)]
pub(crate) struct Challenges {
    missing: Vec<HeaderValue>,
    invalid: Vec<HeaderValue>,
    /// The challenges that disclose the state of a key, if enabled, in the order of
    /// [`Reason::ALL`].
    not_accepted: Option<[Vec<HeaderValue>; 4]>,
    ambiguous: Vec<HeaderValue>,
    insufficient: Vec<HeaderValue>,
    /// `true` if `404` replaces `403`.
    hides_forbidden: bool,
}

impl Challenges {
    /// Serializes one challenge per scheme, in order and in separate header lines, for clients that
    /// only parse one challenge per line.
    pub(crate) fn new(schemes: &[&str], realm: &str, scopes: &str) -> Result<Self, ConfigError> {
        let realm = quoted(realm)?;
        let lines = |attributes: &str| -> Vec<HeaderValue> {
            schemes
                .iter()
                .map(|scheme| {
                    HeaderValue::try_from(format!("{scheme} realm={realm}{attributes}"))
                        .expect("a scheme, a quoted realm and the attributes are visible ASCII")
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

    /// Discloses why a correct key is not accepted (RFC 6750 section 3).
    pub(crate) fn disclosing_state(mut self, discloses: bool) -> Self {
        let described = |reason: Reason| {
            let attributes = format!("{INVALID_TOKEN}, error_description=\"{}\"", reason.as_str());
            let for_scheme = |line: &HeaderValue| {
                let bare = line.to_str().expect("a challenge is visible ASCII");
                HeaderValue::try_from(format!("{bare}{attributes}"))
                    .expect("a challenge with a description is visible ASCII")
            };
            self.missing.iter().map(for_scheme).collect()
        };
        self.not_accepted = discloses.then(|| Reason::ALL.map(described));
        self
    }

    /// Responds with `404` instead of `403` (RFC 9110 section 15.5.4).
    pub(crate) fn hiding_forbidden(mut self, hides: bool) -> Self {
        self.hides_forbidden = hides;
        self
    }

    pub(crate) fn hides_forbidden(&self) -> bool {
        self.hides_forbidden
    }

    /// Returns the challenges for a wrong key or for a correct key that is not accepted.
    fn invalid_for(&self, refusal: Refusal) -> &[HeaderValue] {
        match (&self.not_accepted, refusal) {
            (Some(lines), Refusal::NotAccepted(reason)) => &lines[reason as usize],
            (Some(_) | None, _) => &self.invalid,
        }
    }

    /// Returns the response to a rejected request.
    pub(crate) fn rejection(&self, refusal: Refusal, named: Named) -> Rejection {
        let AuthProblem {
            status,
            code,
            title,
        } = self.problem(refusal, named.titles());
        let challenges = self
            .lines(refusal)
            .iter()
            .filter(|line| named.is_challenged_by(line));
        let rejection = challenges.fold(
            Rejection::new(status, code, title).with_kind(refusal.kind()),
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

    fn problem(&self, refusal: Refusal, titles: &Titles) -> AuthProblem {
        use StatusCode as Status;
        let (status, code, title) = match refusal {
            Refusal::Missing => (Status::UNAUTHORIZED, "missing-credentials", titles.missing),
            Refusal::Invalid | Refusal::NotAccepted(_) => {
                (Status::UNAUTHORIZED, "invalid-credentials", titles.invalid)
            }
            Refusal::Ambiguous => (
                Status::BAD_REQUEST,
                "ambiguous-credentials",
                titles.ambiguous,
            ),
            Refusal::InsufficientScope | Refusal::Restricted if self.hides_forbidden => {
                (Status::NOT_FOUND, "not-found", "The resource was not found")
            }
            Refusal::Restricted => (Status::FORBIDDEN, "key-restricted", titles.restricted),
            Refusal::InsufficientScope => {
                (Status::FORBIDDEN, "insufficient-scope", titles.insufficient)
            }
            Refusal::TooManyFailures { .. } => (
                Status::TOO_MANY_REQUESTS,
                "too-many-auth-failures",
                titles.too_many,
            ),
            Refusal::Unavailable { .. } => (
                Status::SERVICE_UNAVAILABLE,
                "auth-unavailable",
                titles.unavailable,
            ),
            Refusal::Internal => (Status::INTERNAL_SERVER_ERROR, "internal", titles.internal),
        };
        AuthProblem {
            status,
            code,
            title,
        }
    }

    /// Returns the challenges for a rejected request.
    fn lines(&self, refusal: Refusal) -> &[HeaderValue] {
        match refusal {
            Refusal::Missing => &self.missing,
            Refusal::Invalid | Refusal::NotAccepted(_) => self.invalid_for(refusal),
            Refusal::Ambiguous => &self.ambiguous,
            Refusal::InsufficientScope if !self.hides_forbidden => &self.insufficient,
            Refusal::InsufficientScope
            | Refusal::Restricted
            | Refusal::TooManyFailures { .. }
            | Refusal::Unavailable { .. }
            | Refusal::Internal => &[],
        }
    }
}

/// The status, type and title of a problem.
struct AuthProblem {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
}

/// Returns a realm as a quoted string (RFC 9110 section 5.6.4).
fn quoted(realm: &str) -> Result<String, ConfigError> {
    if realm.is_empty() || !realm.bytes().all(|byte| (0x20..=0x7e).contains(&byte)) {
        return Err(ConfigError::new(
            "realm",
            realm.escape_debug(),
            "a realm is one or more printable ASCII characters",
        )
        .fix("use the name of the API, for example `api`"));
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
