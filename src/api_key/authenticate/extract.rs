//! Extraction and removal of keys in requests.

use std::ops::Deref;

use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Uri,
    header::{AUTHORIZATION, COOKIE, Entry},
};
use zeroize::Zeroizing;

use super::{
    encoding::{decode_base64, decode_percent, is_token68},
    key_source::{AuthScheme, KeyLocation, KeySource},
    websocket,
};
use crate::core::http::client_uri::ClientUri;

/// The credential of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Presented<'a> {
    /// No credential for this layer.
    Nothing,
    /// One credential, of any form.
    Key(Material<'a>),
    /// Two credentials, or one in two places.
    Ambiguous,
}

/// The bytes of a credential: borrowed from the request, or decoded and overwritten on drop.
#[derive(PartialEq, Eq)]
pub(crate) enum Material<'a> {
    Borrowed(&'a [u8]),
    Decoded(Zeroizing<Vec<u8>>),
}

impl Deref for Material<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Decoded(bytes) => bytes,
        }
    }
}

impl std::fmt::Debug for Material<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Material")
    }
}

/// Extracts the credential from the sources.
pub(crate) fn extract<'a, B>(sources: &[KeySource], request: &'a Request<B>) -> Presented<'a> {
    let mut found = Presented::Nothing;
    for source in sources {
        let here = look(source, sources, request.headers(), request.uri());
        found = match (found, here) {
            (found, Presented::Nothing) => found,
            (Presented::Nothing, here) => here,
            (Presented::Key(_) | Presented::Ambiguous, _) => return Presented::Ambiguous,
        };
    }
    found
}

/// Returns the source that contains the credential of a request.
pub(crate) fn source<'a, B>(
    sources: &'a [KeySource],
    request: &Request<B>,
) -> Option<&'a KeySource> {
    sources.iter().find(|source| {
        let here = look(source, sources, request.headers(), request.uri());
        !matches!(here, Presented::Nothing)
    })
}

/// Removes the key from all sources, and from the client's URI in the extensions of the request.
pub(crate) fn strip<B>(sources: &[KeySource], request: &mut Request<B>) {
    for source in sources {
        match &source.place {
            KeyLocation::Header(name) => drop(request.headers_mut().remove(name)),
            KeyLocation::Scheme(scheme) => {
                let is_ours = |value: &HeaderValue| credentials(value, &scheme.name).is_some();
                strip_authorization(request.headers_mut(), is_ours);
            }
            KeyLocation::Basic => {
                let is_ours = |value: &HeaderValue| credentials(value, "Basic").is_some();
                strip_authorization(request.headers_mut(), is_ours);
            }
            KeyLocation::BareAuthorization => {
                let is_ours = |value: &HeaderValue| bare(value, sources).is_some();
                strip_authorization(request.headers_mut(), is_ours);
            }
            KeyLocation::WebSocketProtocol(prefix) => {
                websocket::strip(prefix, request.headers_mut());
            }
            KeyLocation::Cookie(name) => strip_cookie(name, request.headers_mut()),
            KeyLocation::Query(name) => {
                strip_query(name, request.uri_mut());
                ClientUri::change(request.extensions_mut(), |uri| strip_query(name, uri));
            }
        }
    }
}

/// Marks the headers of the sources as sensitive, so that header logs omit their values.
pub(crate) fn mark_sensitive<B>(sources: &[KeySource], request: &mut Request<B>) {
    for name in sources.iter().filter_map(KeySource::header_name) {
        if let Entry::Occupied(mut lines) = request.headers_mut().entry(name) {
            lines.iter_mut().for_each(|line| line.set_sensitive(true));
        }
    }
}

/// Looks for the key of a source. `sources` contains all sources of the layer.
fn look<'a>(
    source: &KeySource,
    sources: &[KeySource],
    headers: &'a HeaderMap,
    uri: &'a Uri,
) -> Presented<'a> {
    match &source.place {
        KeyLocation::Header(name) => alone(headers, name, |line| {
            Some(Material::Borrowed(line.as_bytes().trim_ascii()))
        }),
        KeyLocation::Scheme(scheme) => alone(headers, &AUTHORIZATION, |line| {
            scheme_key(line, scheme).map(Material::Borrowed)
        }),
        KeyLocation::Basic => alone(headers, &AUTHORIZATION, |line| {
            credentials(line, "Basic").map(|encoded| Material::Decoded(basic_key(encoded)))
        }),
        KeyLocation::BareAuthorization => alone(headers, &AUTHORIZATION, |line| {
            bare(line, sources).map(Material::Borrowed)
        }),
        KeyLocation::WebSocketProtocol(prefix) => only(websocket::keys(headers, prefix)),
        KeyLocation::Cookie(name) => {
            let lines = headers.get_all(COOKIE).iter();
            let pairs = lines.flat_map(|line| cookies(line.as_bytes()));
            only(pairs.filter_map(|pair| value_of(name, pair.trim_ascii())))
        }
        KeyLocation::Query(name) => {
            let pairs = uri.query().unwrap_or_default().split('&');
            let values = pairs.filter_map(|pair| value_of(name, pair.as_bytes()));
            match only(values) {
                Presented::Key(Material::Borrowed(value)) if value.contains(&b'%') => {
                    Presented::Key(Material::Decoded(decode_percent(value)))
                }
                other => other,
            }
        }
    }
}

/// Reads a header that occurs once. A second value is ambiguous: it can be a second key, or an
/// attempt to show different keys to different readers.
fn alone<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    read: impl FnOnce(&'a HeaderValue) -> Option<Material<'a>>,
) -> Presented<'a> {
    let mut lines = headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Presented::Nothing,
        (Some(line), None) => read(line).map_or(Presented::Nothing, Presented::Key),
        (Some(_), Some(_)) => Presented::Ambiguous,
    }
}

fn only<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Presented<'a> {
    match (values.next(), values.next()) {
        (None, _) => Presented::Nothing,
        (Some(value), None) => Presented::Key(Material::Borrowed(value)),
        (Some(_), Some(_)) => Presented::Ambiguous,
    }
}

/// Returns the credentials after a scheme, if the value has this scheme in any case.
fn credentials<'a>(value: &'a HeaderValue, scheme: &str) -> Option<&'a [u8]> {
    let value = value.as_bytes().trim_ascii();
    let (found, rest) = value.split_at_checked(scheme.len())?;
    let ends = rest
        .first()
        .is_none_or(|byte| *byte == b' ' || *byte == b'\t');
    (ends && found.eq_ignore_ascii_case(scheme.as_bytes())).then(|| rest.trim_ascii())
}

/// Returns the credentials after a scheme, as a source reads them. Credentials of a custom scheme
/// that are not a `token68` are read as an empty key.
fn scheme_key<'a>(value: &'a HeaderValue, scheme: &AuthScheme) -> Option<&'a [u8]> {
    let found = credentials(value, &scheme.name)?;
    let is_separated = || value.as_bytes().trim_ascii()[scheme.name.len()..].starts_with(b" ");
    let is_valid = !scheme.is_token68 || is_token68(found) && is_separated();
    Some(if is_valid { found } else { &[] })
}

/// Returns a key without a scheme. A value that another source reads as a scheme is not such a key,
/// so that no credential is found twice.
fn bare<'a>(value: &'a HeaderValue, sources: &[KeySource]) -> Option<&'a [u8]> {
    let whole = value.as_bytes().trim_ascii();
    let mut schemes = sources.iter().filter_map(KeySource::authorization_scheme);
    let has_scheme = whole.iter().any(u8::is_ascii_whitespace)
        || schemes.any(|scheme| credentials(value, scheme).is_some());
    (!has_scheme).then_some(whole)
}

/// Returns the password of Basic credentials, or the name if the password is empty (RFC 7617).
fn basic_key(encoded: &[u8]) -> Zeroizing<Vec<u8>> {
    let decoded = decode_base64(encoded).unwrap_or_default();
    let colon = decoded.iter().position(|byte| *byte == b':');
    let (name, password) = decoded.split_at(colon.unwrap_or(decoded.len()));
    let key = match password {
        [] | [b':'] => name,
        [_, password @ ..] => password,
    };
    Zeroizing::new(key.to_vec())
}

fn cookies(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| *byte == b';')
}

fn value_of<'a>(name: &str, pair: &'a [u8]) -> Option<&'a [u8]> {
    match pair.strip_prefix(name.as_bytes())? {
        [] => Some(&[]),
        [b'=', value @ ..] => Some(value),
        [_, ..] => None,
    }
}

fn strip_authorization(headers: &mut HeaderMap, is_ours: impl FnOnce(&HeaderValue) -> bool) {
    if headers.get(AUTHORIZATION).is_some_and(is_ours) {
        headers.remove(AUTHORIZATION);
    }
}

/// Removes one cookie and leaves the others unchanged.
fn strip_cookie(name: &str, headers: &mut HeaderMap) {
    let is_ours = |pair: &&[u8]| value_of(name, pair.trim_ascii()).is_some();
    let lines = || headers.get_all(COOKIE).iter();
    if !lines().any(|line| cookies(line.as_bytes()).any(|pair| is_ours(&pair))) {
        return;
    }
    let kept: Vec<HeaderValue> = lines()
        .filter_map(|line| {
            let pairs = cookies(line.as_bytes()).filter(|pair| !is_ours(pair));
            let joined = pairs.collect::<Vec<_>>().join(&b';');
            HeaderValue::from_bytes(joined.trim_ascii()).ok()
        })
        .filter(|line| !line.is_empty())
        .collect();
    headers.remove(COOKIE);
    for line in kept {
        headers.append(COOKIE, line);
    }
}

/// Removes one parameter and leaves the others unchanged and in order.
fn strip_query(name: &str, uri: &mut Uri) {
    let Some(query) = uri.query() else { return };
    let is_ours = |pair: &&str| value_of(name, pair.as_bytes()).is_some();
    if !query.split('&').any(|pair| is_ours(&pair)) {
        return;
    }
    let kept: Vec<&str> = query.split('&').filter(|pair| !is_ours(pair)).collect();
    let separator = if kept.is_empty() { "" } else { "?" };
    let path_and_query = format!("{}{separator}{}", uri.path(), kept.join("&"));
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(
        path_and_query
            .parse()
            .expect("a path and a part of its query are a path and a query"),
    );
    *uri = Uri::from_parts(parts).expect("the other parts have not changed");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sources() -> [KeySource; 2] {
        [KeySource::bearer(), KeySource::x_api_key()]
    }

    fn key(bytes: &[u8]) -> Presented<'_> {
        Presented::Key(Material::Borrowed(bytes))
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
            assert_eq!(extract(&sources(), &request), key(b"k"), "{header:?}");
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
            assert_eq!(extract(&sources(), &request), key(b""), "{header:?}");
        }
    }

    /// Threat A9: two readers of a request cannot see different keys.
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
        assert_eq!(extract(&sources(), &request), key(b"k, l"));
    }

    /// Threat A11: the key is removed from each source, and nothing else is.
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

    fn everywhere() -> [KeySource; 5] {
        [
            KeySource::x_api_key(),
            KeySource::bearer(),
            KeySource::basic(),
            KeySource::cookie("key").unwrap(),
            KeySource::insecure_query_parameter("key").unwrap(),
        ]
    }

    fn found(uri: &str, headers: &[(&str, &str)]) -> Option<String> {
        let mut request = request(headers);
        *request.uri_mut() = uri.parse().unwrap();
        match extract(&everywhere(), &request) {
            Presented::Nothing => None,
            Presented::Key(material) => Some(String::from_utf8_lossy(&material).into_owned()),
            Presented::Ambiguous => Some("ambiguous".to_owned()),
        }
    }

    #[test]
    fn a_key_is_found_in_basic_credentials_a_cookie_and_the_query() {
        let found = |uri, headers: &[_]| found(uri, headers).unwrap_or_default();
        assert_eq!(found("/", &[("authorization", "Basic dTpwdw==")]), "pw");
        assert_eq!(found("/", &[("authorization", "basic azo=")]), "k");
        assert_eq!(found("/", &[("authorization", "Basic aw==")]), "k");
        assert_eq!(found("/", &[("authorization", "Basic dTphOmI=")]), "a:b");
        assert_eq!(found("/", &[("authorization", "Basic !")]), "");
        assert_eq!(found("/", &[("cookie", "a=b; key=k;c=d")]), "k");
        assert_eq!(found("/?a=b&key=k&c", &[]), "k");
        assert_eq!(found("/?key=k%5Fl", &[]), "k_l");
        assert_eq!(
            found("/?keys=k&xkey=k", &[("cookie", "keys=k; xkey=k")]),
            ""
        );
    }

    /// Threat A9: a key in any two places is ambiguous.
    #[test]
    fn each_two_places_are_ambiguous() {
        let headers = [
            ("x-api-key", "k"),
            ("authorization", "Bearer k"),
            ("authorization", "Basic azo="),
            ("cookie", "key=k"),
        ];
        for (at, one) in headers.iter().enumerate() {
            for other in &headers[at..] {
                let both = found("/", &[*one, *other]);
                assert_eq!(both.as_deref(), Some("ambiguous"), "{one:?} {other:?}");
            }
            let both = found("/?key=k", &[*one]);
            assert_eq!(both.as_deref(), Some("ambiguous"), "{one:?} and the query");
        }
        assert_eq!(found("/?key=k&key=k", &[]).as_deref(), Some("ambiguous"));
        let twice = [("cookie", "key=k; key=k")];
        assert_eq!(found("/", &twice).as_deref(), Some("ambiguous"));
    }

    /// Threat A11: the rest of the request remains unchanged and in order.
    #[test]
    fn stripping_a_cookie_or_a_parameter_leaves_its_neighbors_alone() {
        for (before, after) in [
            ("/p?key=k", "/p"),
            ("/p?a=%41&key=k&&b=+c&d", "/p?a=%41&&b=+c&d"),
            ("/p?a=b&key", "/p?a=b"),
            ("/p?keys=1", "/p?keys=1"),
            ("http://h:1/p%2Fq?key=k&x=%zz", "http://h:1/p%2Fq?x=%zz"),
            ("/p?", "/p?"),
        ] {
            let mut request = Request::builder().uri(before).body(()).unwrap();
            let sent = ClientUri(request.uri().clone());
            request.extensions_mut().insert(sent);
            strip(&everywhere(), &mut request);
            assert_eq!(request.uri().to_string(), after);
            let sent = ClientUri::of(request.extensions()).unwrap();
            assert_eq!(sent.to_string(), after);
        }
        let mut request = request(&[("cookie", "a=b; key=k; c=\"d\""), ("cookie", "key=k")]);
        strip(&everywhere(), &mut request);
        let lines: Vec<_> = request.headers().get_all(COOKIE).iter().collect();
        assert_eq!(lines, ["a=b; c=\"d\""]);
    }

    #[test]
    fn a_name_that_could_be_written_in_two_ways_is_refused() {
        for wrong in ["", "a b", "a=b", "k%65y", "ä"] {
            assert!(KeySource::cookie(wrong).is_err(), "{wrong}");
            let query = KeySource::insecure_query_parameter(wrong);
            assert!(query.is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_headers_and_any_query_are_read_without_a_panic(
            header in proptest::collection::vec(any::<u8>(), 0..80),
            query in "[ -~]{0,60}",
        ) {
            let mut request = Request::new(());
            if let Ok(uri) = format!("/?{query}").parse() {
                *request.uri_mut() = uri;
            }
            if let Ok(value) = HeaderValue::from_bytes(&header) {
                for name in ["authorization", "cookie", "x-api-key"] {
                    request.headers_mut().insert(name, value.clone());
                    let _ = extract(&everywhere(), &request);
                    strip(&everywhere(), &mut request);
                }
            }
            prop_assert_eq!(extract(&everywhere(), &request), Presented::Nothing);
        }
    }
}
