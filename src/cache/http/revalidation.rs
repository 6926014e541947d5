//! Revalidation: conditional requests, and the comparison of their responses.

use http::{
    HeaderMap, HeaderName, HeaderValue, Request,
    header::{
        CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_MATCH, IF_MODIFIED_SINCE,
        IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE,
    },
};

use super::date;
use crate::cache::entry::entry::remove_hop_by_hop;

/// Turns a request into a conditional request for revalidation. Returns `false`, and leaves the
/// request unchanged, if the stored response has no validator.
///
/// The conditions and ranges of the client are removed, because the cache needs the whole response.
/// They are evaluated against the response once it is available.
pub(crate) fn ask<B>(request: &mut Request<B>, stored: &HeaderMap) -> bool {
    if !has_validator(stored) {
        return false;
    }
    let (etag, modified) = (stored.get(ETAG), stored.get(LAST_MODIFIED));
    want_all(request);
    let headers = request.headers_mut();
    if let Some(etag) = etag {
        headers.insert(IF_NONE_MATCH, etag.clone());
    }
    if let Some(modified) = modified {
        headers.insert(IF_MODIFIED_SINCE, modified.clone());
    }
    true
}

/// Returns `true` if a stored response can be revalidated.
pub(crate) fn has_validator(stored: &HeaderMap) -> bool {
    stored.contains_key(ETAG) || stored.contains_key(LAST_MODIFIED)
}

/// Removes conditions and ranges from a request, so that it requests the whole response.
pub(crate) fn want_all<B>(request: &mut Request<B>) {
    for name in [
        IF_MATCH,
        IF_MODIFIED_SINCE,
        IF_NONE_MATCH,
        IF_RANGE,
        IF_UNMODIFIED_SINCE,
        RANGE,
    ] {
        request.headers_mut().remove(name);
    }
}

/// The result of comparing the validators of a response with those of the stored one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// It names the same version.
    Same,
    /// It names another version.
    Other,
    /// It names no version.
    Unknown,
}

/// Compares the validators of a `304` with those of the stored response (RFC 9111 section 4.3.4).
///
/// Entity tags are compared weakly; without one, `Last-Modified` is compared. A strong tag that
/// the stored response does not have names another version.
pub(crate) fn compare(fresh: &HeaderMap, stored: &HeaderMap) -> Comparison {
    let dates = || match (fresh.get(LAST_MODIFIED), stored.get(LAST_MODIFIED)) {
        (Some(fresh), Some(stored)) => Comparison::of(same_date(fresh, stored)),
        (Some(_) | None, _) => Comparison::Unknown,
    };
    match (fresh.get(ETAG), stored.get(ETAG)) {
        (Some(fresh), Some(stored)) => Comparison::of(opaque(fresh) == opaque(stored)),
        (Some(fresh), None) if !is_weak(fresh) => Comparison::Other,
        (Some(_) | None, _) => dates(),
    }
}

/// Compares the response to a HEAD with the stored one (RFC 9111 section 4.3.5): its version and
/// length.
pub(crate) fn compare_head(head: &HeaderMap, stored: &HeaderMap) -> Comparison {
    let differs = [ETAG, LAST_MODIFIED, CONTENT_LENGTH].iter().any(|name| {
        let (said, stored) = (head.get(name), stored.get(name));
        said.is_some() && said != stored
    });
    match differs {
        true => Comparison::Other,
        false => compare(head, stored),
    }
}

impl Comparison {
    fn of(is_same: bool) -> Self {
        match is_same {
            true => Self::Same,
            false => Self::Other,
        }
    }
}

fn opaque(tag: &HeaderValue) -> &[u8] {
    let tag = tag.as_bytes();
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

fn is_weak(tag: &HeaderValue) -> bool {
    tag.as_bytes().starts_with(b"W/")
}

fn same_date(one: &HeaderValue, two: &HeaderValue) -> bool {
    match (date::parse(one), date::parse(two)) {
        (Some(one), Some(two)) => one == two,
        (_, _) => one == two,
    }
}

/// Returns the stored fields, updated with those of a `304` (RFC 9111 section 3.2).
///
/// Fields that describe the stored body are not updated.
pub(crate) fn merged(stored: &HeaderMap, fresh: &HeaderMap) -> HeaderMap {
    const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");
    let mut fresh = fresh.clone();
    remove_hop_by_hop(&mut fresh);
    for name in [
        CONTENT_ENCODING,
        CONTENT_LENGTH,
        CONTENT_MD5,
        CONTENT_RANGE,
        ETAG,
    ] {
        fresh.remove(name);
    }
    let mut merged = stored.clone();
    for name in fresh.keys() {
        merged.remove(name);
    }
    for (name, value) in &fresh {
        merged.append(name, value.clone());
    }
    merged
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn a_question_replaces_the_clients_own() {
        let mut request = Request::new(());
        *request.headers_mut() = headers(&[
            ("if-none-match", "\"client\""),
            ("range", "bytes=0-1"),
            ("accept", "*/*"),
        ]);
        assert!(!ask(&mut request, &headers(&[("x-a", "1")])));
        assert_eq!(request.headers().len(), 3);
        assert!(ask(&mut request, &headers(&[("etag", "\"stored\"")])));
        assert_eq!(request.headers()[IF_NONE_MATCH], "\"stored\"");
        assert!(!request.headers().contains_key(RANGE));
        assert_eq!(request.headers()["accept"], "*/*");
    }

    const EARLY: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const LATE: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    #[test]
    fn a_304_names_the_stored_version_another_one_or_none() {
        use Comparison::{Other, Same, Unknown};
        for (fresh, stored, expected) in [
            (vec![], vec![("etag", "\"a\"")], Unknown),
            (vec![("etag", "\"a\"")], vec![("etag", "\"a\"")], Same),
            (vec![("etag", "W/\"a\"")], vec![("etag", "\"a\"")], Same),
            (vec![("etag", "\"a\"")], vec![("etag", "W/\"a\"")], Same),
            (vec![("etag", "\"b\"")], vec![("etag", "\"a\"")], Other),
            (vec![("etag", "\"b\"")], vec![("etag", "W/\"a\"")], Other),
            (
                vec![("etag", "\"b\"")],
                vec![("last-modified", EARLY)],
                Other,
            ),
            (
                vec![("etag", "\"b\""), ("last-modified", EARLY)],
                vec![("last-modified", EARLY)],
                Other,
            ),
            (
                vec![("etag", "W/\"b\""), ("last-modified", EARLY)],
                vec![("last-modified", EARLY)],
                Same,
            ),
            (
                vec![("last-modified", LATE)],
                vec![("last-modified", EARLY)],
                Other,
            ),
            (
                vec![("last-modified", "Sunday, 06-Nov-94 08:49:37 GMT")],
                vec![("last-modified", EARLY)],
                Same,
            ),
            (
                vec![("last-modified", LATE)],
                vec![("etag", "\"a\"")],
                Unknown,
            ),
        ] {
            assert_eq!(
                compare(&headers(&fresh), &headers(&stored)),
                expected,
                "{fresh:?} {stored:?}"
            );
        }
    }

    #[test]
    fn a_head_without_a_validator_confirms_nothing() {
        let stored = headers(&[("etag", "\"a\""), ("content-length", "9")]);
        let compare = |fields| compare_head(&headers(fields), &stored);
        assert_eq!(compare(&[("x-a", "1")]), Comparison::Unknown);
        assert_eq!(compare(&[("content-length", "9")]), Comparison::Unknown);
        assert_eq!(
            compare(&[("etag", "\"a\""), ("content-length", "9")]),
            Comparison::Same
        );
        assert_eq!(compare(&[("etag", "\"b\"")]), Comparison::Other);
        assert_eq!(compare(&[("content-length", "8")]), Comparison::Other);
        assert_eq!(compare(&[("last-modified", EARLY)]), Comparison::Other);
    }

    #[test]
    fn all_lines_of_a_field_are_replaced_and_what_describes_the_body_stays() {
        let stored = headers(&[
            ("x-a", "1"),
            ("x-a", "2"),
            ("x-b", "1"),
            ("content-length", "9"),
            ("etag", "\"a\""),
        ]);
        let fresh = headers(&[
            ("x-a", "3"),
            ("x-a", "4"),
            ("content-length", "0"),
            ("connection", "x-c"),
            ("x-c", "1"),
            ("etag", "\"b\""),
        ]);
        let expected = headers(&[
            ("x-b", "1"),
            ("content-length", "9"),
            ("etag", "\"a\""),
            ("x-a", "3"),
            ("x-a", "4"),
        ]);
        assert_eq!(merged(&stored, &fresh), expected);
    }
}
