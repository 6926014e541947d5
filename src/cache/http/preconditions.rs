//! Preconditions of requests, evaluated against the stored response.

use http::{
    HeaderMap, HeaderValue,
    header::{DATE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED},
};

use super::date;

/// Returns `true` if the client already has this version, so that the response is `304` (RFC 9110
/// section 13.2.2, steps 3 and 4). `If-Match` and `If-Unmodified-Since` are evaluated by the origin
/// (RFC 9111 section 4.3.2).
pub(crate) fn is_not_modified(request: &HeaderMap, stored: &HeaderMap) -> bool {
    tags_match(request, stored)
        .or_else(|| since(request, stored))
        .unwrap_or(false)
}

/// Returns `true` if `If-Range` is absent or matches the stored response by strong comparison (RFC
/// 9110 section 13.1.5).
pub(super) fn is_same_version(request: &HeaderMap, stored: &HeaderMap) -> bool {
    let Some(condition) = request.get(IF_RANGE) else {
        return true;
    };
    let condition = condition.as_bytes();
    let (name, strong) = match condition.first() {
        Some(b'"') => (ETAG, true),
        Some(b'W') if condition.get(1) == Some(&b'/') => return false,
        _ => (LAST_MODIFIED, changed_before_it_was_sent(stored)),
    };
    strong
        && stored
            .get(name)
            .is_some_and(|value| value.as_bytes() == condition)
}

/// Returns `true` if a response was generated at least one second after its content last changed.
/// Content that changes twice within a second has one date for two versions (RFC 9110 section
/// 8.8.2.2).
fn changed_before_it_was_sent(stored: &HeaderMap) -> bool {
    let [changed, sent] = [LAST_MODIFIED, DATE].map(|name| stored.get(name).and_then(date::parse));
    matches!((changed, sent), (Some(changed), Some(sent)) if changed < sent)
}

/// Evaluates `If-None-Match` against the stored entity tag. `None` if the request has no such
/// field.
fn tags_match(request: &HeaderMap, stored: &HeaderMap) -> Option<bool> {
    if !request.contains_key(IF_NONE_MATCH) {
        return None;
    }
    let mut lines = request.get_all(IF_NONE_MATCH).iter();
    Some(match stored.get(ETAG) {
        Some(etag) => lines.any(|line| lists(line, etag)),
        None => lines.any(|line| line.as_bytes().trim_ascii() == b"*"),
    })
}

/// Evaluates `If-Modified-Since`: `true` if the stored response is no newer. `None` if the request
/// has no such field.
fn since(request: &HeaderMap, stored: &HeaderMap) -> Option<bool> {
    let since = request.get(IF_MODIFIED_SINCE).and_then(date::parse)?;
    let modified = stored.get(LAST_MODIFIED).or_else(|| stored.get(DATE));
    Some(
        modified
            .and_then(date::parse)
            .is_some_and(|modified| modified <= since),
    )
}

/// Returns `true` if a line of entity tags lists `etag`, by weak comparison; `*` lists all.
fn lists(line: &HeaderValue, etag: &HeaderValue) -> bool {
    let etag = opaque(etag.as_bytes());
    let mut rest = line.as_bytes().trim_ascii();
    if rest == b"*" {
        return true;
    }
    while !rest.is_empty() {
        let end = tag_end(rest);
        if opaque(rest[..end].trim_ascii()) == etag {
            return true;
        }
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    false
}

/// Returns the end of the first tag of a list. Entity tags are quoted and have no escapes.
fn tag_end(list: &[u8]) -> usize {
    let mut quoted = false;
    let ends = |byte: &u8| {
        quoted ^= *byte == b'"';
        *byte == b',' && !quoted
    };
    list.iter().position(ends).unwrap_or(list.len())
}

/// Returns a tag without its weakness prefix.
fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn headers(fields: &[(HeaderName, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name.clone(), HeaderValue::from_static(value));
        }
        headers
    }

    fn matches(condition: &'static str, etag: &'static str) -> bool {
        let request = headers(&[(IF_NONE_MATCH, condition)]);
        is_not_modified(&request, &headers(&[(ETAG, etag)]))
    }

    #[test]
    fn tags_are_compared_weakly_anywhere_in_the_list() {
        assert!(matches(r#""a""#, r#""a""#));
        assert!(matches(r#"W/"a""#, r#""a""#));
        assert!(matches(r#""a""#, r#"W/"a""#));
        assert!(matches(r#""x", "a,b" ,"c""#, r#""a,b""#));
        assert!(matches("*", r#""a""#));
        assert!(!matches(r#""x", "a,b""#, r#""a""#));
        assert!(!matches("a", r#""a""#));
    }

    #[test]
    fn a_tag_goes_before_a_date() {
        let request = headers(&[
            (IF_NONE_MATCH, "\"x\""),
            (IF_MODIFIED_SINCE, "Sun, 06 Nov 1994 08:49:37 GMT"),
        ]);
        let stored = headers(&[
            (ETAG, "\"a\""),
            (LAST_MODIFIED, "Sun, 06 Nov 1994 08:49:37 GMT"),
        ]);
        assert!(!is_not_modified(&request, &stored));
    }

    #[test]
    fn unchanged_response_is_not_modified() {
        let request = headers(&[(IF_MODIFIED_SINCE, "Sun, 06 Nov 1994 08:49:37 GMT")]);
        let stored = |name, at| is_not_modified(&request, &headers(&[(name, at)]));
        assert!(stored(LAST_MODIFIED, "Sun, 06 Nov 1994 08:49:37 GMT"));
        assert!(stored(DATE, "Sun, 06 Nov 1994 08:49:36 GMT"));
        assert!(!stored(LAST_MODIFIED, "Sun, 06 Nov 1994 08:49:38 GMT"));
        assert!(!stored(LAST_MODIFIED, "never"));
    }
}
