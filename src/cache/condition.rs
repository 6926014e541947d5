//! Conditions that a client puts on an answer, judged by what is stored.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        DATE, ETAG, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE,
        LAST_MODIFIED,
    },
};

use super::date;

/// What a request's conditions say of what is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is to be answered.
    Answer,
    /// The client has it: `304`.
    NotModified,
    /// It is not what the client takes it for: `412`.
    Failed,
}

/// Judges a request's conditions, in the order of RFC 9110 section 13.2.2.
pub(super) fn judge(request: &HeaderMap, stored: &HeaderMap) -> Verdict {
    let tags = |name| tags_match(request, stored, name);
    let same = match tags(IF_MATCH) {
        Some(matches) => matches,
        None => since(request, IF_UNMODIFIED_SINCE, stored).unwrap_or(true),
    };
    if !same {
        return Verdict::Failed;
    }
    let has_it = match tags(IF_NONE_MATCH) {
        Some(matches) => matches,
        None => since(request, IF_MODIFIED_SINCE, stored).unwrap_or(false),
    };
    match has_it {
        true => Verdict::NotModified,
        false => Verdict::Answer,
    }
}

/// Returns whether the client has parts of what is stored, if it says of what it has parts: by
/// strong comparison (RFC 9110 section 13.1.5).
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

/// Returns whether an answer was sent at least a second after what it bears had changed last. What
/// changes twice within a second has one date for two versions (RFC 9110 section 8.8.2.2).
fn changed_before_it_was_sent(stored: &HeaderMap) -> bool {
    let [changed, sent] = [LAST_MODIFIED, DATE].map(|name| stored.get(name).and_then(date::parse));
    matches!((changed, sent), (Some(changed), Some(sent)) if changed < sent)
}

/// Returns whether a field of entity tags lists the stored one, if there is such a field.
fn tags_match(request: &HeaderMap, stored: &HeaderMap, name: HeaderName) -> Option<bool> {
    if !request.contains_key(&name) {
        return None;
    }
    // To go on with a change, a client must be sure of each byte.
    let strong = name == IF_MATCH;
    let mut lines = request.get_all(name).iter();
    Some(match stored.get(ETAG) {
        Some(etag) if strong && etag.as_bytes().starts_with(b"W/") => false,
        Some(etag) => lines.any(|line| lists(line, etag, strong)),
        None => lines.any(|line| line.as_bytes().trim_ascii() == b"*"),
    })
}

/// Returns whether what is stored has not changed since the moment in a field, if there is one.
fn since(request: &HeaderMap, name: HeaderName, stored: &HeaderMap) -> Option<bool> {
    let since = request.get(name).and_then(date::parse)?;
    let modified = stored.get(LAST_MODIFIED).or_else(|| stored.get(DATE));
    Some(
        modified
            .and_then(date::parse)
            .is_some_and(|modified| modified <= since),
    )
}

/// Returns whether a line of entity tags lists one; `*` lists all.
fn lists(line: &HeaderValue, etag: &HeaderValue, strong: bool) -> bool {
    let opaque = |tag| match strong {
        true => tag,
        false => opaque(tag),
    };
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

/// Returns a tag without its mark of weakness.
fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

#[cfg(test)]
mod tests {
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
        judge(&request, &headers(&[(ETAG, etag)])) == Verdict::NotModified
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
        assert_eq!(judge(&request, &stored), Verdict::Answer);
    }

    #[test]
    fn what_has_not_changed_since_is_not_modified() {
        let request = headers(&[(IF_MODIFIED_SINCE, "Sun, 06 Nov 1994 08:49:37 GMT")]);
        let stored = |name, at| judge(&request, &headers(&[(name, at)])) == Verdict::NotModified;
        assert!(stored(LAST_MODIFIED, "Sun, 06 Nov 1994 08:49:37 GMT"));
        assert!(stored(DATE, "Sun, 06 Nov 1994 08:49:36 GMT"));
        assert!(!stored(LAST_MODIFIED, "Sun, 06 Nov 1994 08:49:38 GMT"));
        assert!(!stored(LAST_MODIFIED, "never"));
    }

    #[test]
    fn a_change_goes_on_only_from_the_very_version() {
        let stored = headers(&[
            (ETAG, "\"a\""),
            (LAST_MODIFIED, "Sun, 06 Nov 1994 08:49:37 GMT"),
        ]);
        let verdict = |name, value| judge(&headers(&[(name, value)]), &stored);
        assert_eq!(verdict(IF_MATCH, "\"a\""), Verdict::Answer);
        assert_eq!(verdict(IF_MATCH, "*"), Verdict::Answer);
        assert_eq!(verdict(IF_MATCH, "W/\"a\""), Verdict::Failed);
        assert_eq!(verdict(IF_MATCH, "\"b\""), Verdict::Failed);
        let earlier = "Sun, 06 Nov 1994 08:49:36 GMT";
        assert_eq!(verdict(IF_UNMODIFIED_SINCE, earlier), Verdict::Failed);
        let weak = headers(&[(ETAG, "W/\"a\"")]);
        assert_eq!(
            judge(&headers(&[(IF_MATCH, "W/\"a\"")]), &weak),
            Verdict::Failed
        );
    }
}
