//! Asking the handler whether a stored answer still holds.

use http::{
    HeaderMap, HeaderName, Request,
    header::{
        CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_MATCH, IF_MODIFIED_SINCE,
        IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE,
    },
};

use super::entry::remove_hop_by_hop;

/// Turns a request into the question whether what is stored still holds. Returns false, and leaves
/// the request as it is, if there is nothing to ask by.
///
/// The client's own conditions and its wish for a part are taken out: the whole answer is wanted,
/// and what the client gets of it is decided when it is there.
pub(super) fn ask<B>(request: &mut Request<B>, stored: &HeaderMap) -> bool {
    let (etag, modified) = (stored.get(ETAG), stored.get(LAST_MODIFIED));
    if etag.is_none() && modified.is_none() {
        return false;
    }
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

/// Takes out of a request what asks for less than the whole answer.
pub(super) fn want_all<B>(request: &mut Request<B>) {
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

/// Returns whether the fields of an answer to a HEAD are those of what is stored: if all that it
/// says of version and length is the same (RFC 9111 section 4.3.5).
pub(super) fn describes(head: &HeaderMap, stored: &HeaderMap) -> bool {
    [ETAG, LAST_MODIFIED, CONTENT_LENGTH].iter().all(|name| {
        head.get(name)
            .is_none_or(|said| stored.get(name) == Some(said))
    })
}

/// Returns the stored fields with those of a `304` in their place (RFC 9111 section 3.2).
///
/// What describes the stored body stays: it is the stored body that they describe.
pub(super) fn merged(stored: &HeaderMap, fresh: &HeaderMap) -> HeaderMap {
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

    #[test]
    fn a_head_describes_what_is_stored_unless_it_says_otherwise() {
        let stored = headers(&[("etag", "\"a\""), ("content-length", "9")]);
        let describes = |fields| describes(&headers(fields), &stored);
        assert!(describes(&[("x-a", "1")]));
        assert!(describes(&[("etag", "\"a\""), ("content-length", "9")]));
        assert!(!describes(&[("etag", "\"b\"")]));
        assert!(!describes(&[("content-length", "8")]));
        assert!(!describes(&[(
            "last-modified",
            "Sun, 06 Nov 1994 08:49:37 GMT"
        )]));
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
