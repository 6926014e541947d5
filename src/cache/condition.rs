//! Conditions that a client puts on an answer, judged by what is stored.

use http::{
    HeaderMap, HeaderValue,
    header::{DATE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED},
};

use super::date;

/// Returns whether what the client has is what is stored, so that `304` will do (RFC 9110 section
/// 13.2.2, RFC 9111 section 4.3.2).
pub(super) fn is_not_modified(request: &HeaderMap, stored: &HeaderMap) -> bool {
    if request.contains_key(IF_NONE_MATCH) {
        let Some(etag) = stored.get(ETAG) else {
            return false;
        };
        return request
            .get_all(IF_NONE_MATCH)
            .iter()
            .any(|line| lists(line, etag));
    }
    let Some(since) = request.get(IF_MODIFIED_SINCE).and_then(date::parse) else {
        return false;
    };
    let modified = stored.get(LAST_MODIFIED).or_else(|| stored.get(DATE));
    modified
        .and_then(date::parse)
        .is_some_and(|modified| modified <= since)
}

/// Returns whether a line of entity tags lists one, by weak comparison; `*` lists all.
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

/// Returns where the first tag of a list ends: entity tags quote, and do not escape.
fn tag_end(list: &[u8]) -> usize {
    let mut quoted = false;
    let ends = |byte: &u8| {
        quoted ^= *byte == b'"';
        *byte == b',' && !quoted
    };
    list.iter().position(ends).unwrap_or(list.len())
}

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
    fn what_has_not_changed_since_is_not_modified() {
        let request = headers(&[(IF_MODIFIED_SINCE, "Sun, 06 Nov 1994 08:49:37 GMT")]);
        let stored = |name, at| is_not_modified(&request, &headers(&[(name, at)]));
        assert!(stored(LAST_MODIFIED, "Sun, 06 Nov 1994 08:49:37 GMT"));
        assert!(stored(DATE, "Sun, 06 Nov 1994 08:49:36 GMT"));
        assert!(!stored(LAST_MODIFIED, "Sun, 06 Nov 1994 08:49:38 GMT"));
        assert!(!stored(LAST_MODIFIED, "never"));
    }
}
