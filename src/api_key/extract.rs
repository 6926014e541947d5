//! Where a request bears its key.

use http::{HeaderMap, HeaderName, HeaderValue, Request, header::AUTHORIZATION};

use crate::error::ConfigError;

/// A place of a request where a key is looked for.
///
/// ```
/// use portcullis::api_key::KeySource;
///
/// let sources = [KeySource::bearer(), KeySource::header("x-acme-key")?];
/// # let _ = sources;
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySource {
    place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// The whole value of a header.
    Header(HeaderName),
    /// What stands behind a scheme in `Authorization`.
    Scheme(&'static str),
}

impl KeySource {
    /// Looks at the whole value of a header.
    ///
    /// # Errors
    ///
    /// If this is no header's name, or `authorization`, whose value begins with a scheme.
    pub fn header(name: &str) -> Result<Self, ConfigError> {
        let refused = |problem: &str| {
            ConfigError::new("header", name, problem)
                .fix("take `x-api-key`, or `KeySource::bearer()` for `Authorization: Bearer`")
        };
        match HeaderName::from_bytes(name.as_bytes()) {
            Ok(AUTHORIZATION) => Err(refused("`authorization` begins with a scheme")),
            Ok(header) => Ok(Self {
                place: Place::Header(header),
            }),
            Err(_) => Err(refused("this is no name of a header")),
        }
    }

    /// Looks at `x-api-key`.
    pub fn x_api_key() -> Self {
        Self {
            place: Place::Header(HeaderName::from_static("x-api-key")),
        }
    }

    /// Looks at `Authorization: Bearer`.
    pub fn bearer() -> Self {
        Self {
            place: Place::Scheme("Bearer"),
        }
    }

    /// Looks at `Authorization: ApiKey`.
    pub fn api_key_scheme() -> Self {
        Self {
            place: Place::Scheme("ApiKey"),
        }
    }

    /// Returns the scheme that a challenge names for this place.
    pub(super) fn challenge_scheme(&self) -> &'static str {
        match &self.place {
            Place::Header(_) => "ApiKey",
            Place::Scheme(scheme) => scheme,
        }
    }

    /// Returns the header whose value decides what is answered.
    pub(super) fn header_name(&self) -> &HeaderName {
        match &self.place {
            Place::Header(name) => name,
            Place::Scheme(_) => &AUTHORIZATION,
        }
    }
}

/// What a request bears.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Presented<'a> {
    /// Nothing that is for this layer.
    Nothing,
    /// One key, or what pretends to be one.
    Key(&'a [u8]),
    /// Two keys, or one in two places.
    Ambiguous,
}

/// Looks for a key in each place.
pub(super) fn extract<'a, B>(sources: &[KeySource], request: &'a Request<B>) -> Presented<'a> {
    let mut found = Presented::Nothing;
    for source in sources {
        let here = source.look(request.headers());
        found = match (found, here) {
            (found, Presented::Nothing) => found,
            (Presented::Nothing, here) => here,
            (Presented::Key(_) | Presented::Ambiguous, _) => return Presented::Ambiguous,
        };
    }
    found
}

/// Takes the key out of each place.
pub(super) fn strip<B>(sources: &[KeySource], request: &mut Request<B>) {
    for source in sources {
        let headers = request.headers_mut();
        match &source.place {
            Place::Header(name) => drop(headers.remove(name)),
            Place::Scheme(scheme) => {
                if headers
                    .get(AUTHORIZATION)
                    .is_some_and(|value| credentials(value, scheme).is_some())
                {
                    headers.remove(AUTHORIZATION);
                }
            }
        }
    }
}

/// Marks the key as a secret where it stays in the request: who logs the headers does not see it.
pub(super) fn mark_sensitive<B>(sources: &[KeySource], request: &mut Request<B>) {
    for source in sources {
        if let Some(value) = request.headers_mut().get_mut(source.header_name()) {
            value.set_sensitive(true);
        }
    }
}

impl KeySource {
    fn look<'a>(&self, headers: &'a HeaderMap) -> Presented<'a> {
        let mut lines = headers.get_all(self.header_name()).iter();
        let Some(line) = lines.next() else {
            return Presented::Nothing;
        };
        // A second line is a second key, or an attempt to have two readers see two of them.
        if lines.next().is_some() {
            return Presented::Ambiguous;
        }
        match &self.place {
            Place::Header(_) => Presented::Key(line.as_bytes().trim_ascii()),
            Place::Scheme(scheme) => {
                credentials(line, scheme).map_or(Presented::Nothing, Presented::Key)
            }
        }
    }
}

/// Returns what stands behind a scheme, if the value has this scheme, in whatever case.
fn credentials<'a>(value: &'a HeaderValue, scheme: &str) -> Option<&'a [u8]> {
    let value = value.as_bytes().trim_ascii();
    let (found, rest) = value.split_at_checked(scheme.len())?;
    let ends = rest
        .first()
        .is_none_or(|byte| *byte == b' ' || *byte == b'\t');
    (ends && found.eq_ignore_ascii_case(scheme.as_bytes())).then(|| rest.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources() -> [KeySource; 2] {
        [KeySource::bearer(), KeySource::x_api_key()]
    }

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn a_key_is_found_in_either_place_whatever_the_case_of_the_scheme() {
        for header in [
            ("x-api-key", "k"),
            ("X-Api-Key", " \tk "),
            ("authorization", "Bearer k"),
            ("authorization", "bEARER   k"),
        ] {
            let request = request(&[header]);
            assert_eq!(
                extract(&sources(), &request),
                Presented::Key(b"k"),
                "{header:?}"
            );
        }
    }

    #[test]
    fn another_scheme_presents_nothing() {
        for value in ["Basic a2V5", "Bearerk", "Bear", ""] {
            let request = request(&[("authorization", value)]);
            assert_eq!(extract(&sources(), &request), Presented::Nothing, "{value}");
        }
    }

    #[test]
    fn an_empty_key_is_a_key() {
        for header in [("x-api-key", ""), ("authorization", "Bearer")] {
            let request = request(&[header]);
            assert_eq!(
                extract(&sources(), &request),
                Presented::Key(b""),
                "{header:?}"
            );
        }
    }

    /// Threat A9: no two readers of a request can see two keys.
    #[test]
    fn two_keys_are_ambiguous_even_if_they_are_the_same() {
        let doubles: [&[(&str, &str)]; 7] = [
            &[("x-api-key", "k"), ("x-api-key", "k")],
            &[("x-api-key", "k"), ("X-API-KEY", "l")],
            &[("authorization", "Bearer k"), ("authorization", "Bearer k")],
            &[("authorization", "Basic k"), ("authorization", "Bearer k")],
            &[("authorization", "Bearer k"), ("authorization", "")],
            &[("authorization", "Bearer k"), ("x-api-key", "k")],
            &[("authorization", "Bearer"), ("x-api-key", "")],
        ];
        for headers in doubles {
            let request = request(headers);
            assert_eq!(
                extract(&sources(), &request),
                Presented::Ambiguous,
                "{headers:?}"
            );
        }
    }

    #[test]
    fn a_comma_does_not_make_a_list() {
        let request = request(&[("x-api-key", "k, l")]);
        assert_eq!(extract(&sources(), &request), Presented::Key(b"k, l"));
    }

    /// Threat A11: the key is taken out of each place, and nothing else is.
    #[test]
    fn stripping_takes_the_key_and_nothing_else() {
        let mut both = request(&[
            ("x-api-key", "k"),
            ("authorization", "Bearer k"),
            ("x", "y"),
        ]);
        strip(&sources(), &mut both);
        assert_eq!(both.headers().len(), 1);
        let mut basic = request(&[("authorization", "Basic k")]);
        strip(&sources(), &mut basic);
        assert_eq!(basic.headers().len(), 1);
    }

    #[test]
    fn authorization_is_not_a_plain_header() {
        assert!(KeySource::header("Authorization").is_err());
        assert!(KeySource::header("x key").is_err());
    }
}
