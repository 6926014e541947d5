//! Byte ranges of a stored body (RFC 9110 section 14.2).

use std::ops::Range;

use http::{HeaderMap, header::RANGE};

use super::preconditions::is_same_version;

/// The part of a stored body that a response contains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SelectedRange {
    /// The whole body: the request has no range, several ranges, or one of another version.
    Whole,
    /// A byte range.
    Bytes(Range<usize>),
    /// An empty range: it starts after the end of the body.
    Unsatisfiable,
}

/// Selects the part of a body of `len` bytes for a request (RFC 9110 section 14.2).
///
/// Only a single range is served. Several ranges cost a server far more than a client, so the whole
/// body is served instead.
pub(crate) fn part(request: &HeaderMap, stored: &HeaderMap, len: usize) -> SelectedRange {
    let mut lines = request.get_all(RANGE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return SelectedRange::Whole;
    };
    if !is_same_version(request, stored) {
        return SelectedRange::Whole;
    }
    let asked = line.to_str().ok().and_then(|line| {
        let (unit, range) = line.split_once('=')?;
        unit.trim()
            .eq_ignore_ascii_case("bytes")
            .then_some(range.trim())
    });
    asked
        .and_then(|range| resolve(range, len))
        .unwrap_or(SelectedRange::Whole)
}

/// Resolves `first-last`, `first-` or `-suffix`. Returns `None` for any other form.
fn resolve(range: &str, len: usize) -> Option<SelectedRange> {
    let (first, last) = range.split_once('-')?;
    let bytes = match (number(first)?, number(last)?) {
        (None, None) => return None,
        (None, Some(suffix)) => len.saturating_sub(suffix)..len,
        (Some(first), None) => first..len,
        (Some(first), Some(last)) if first > last => return None,
        (Some(first), Some(last)) => first..len.min(last.saturating_add(1)),
    };
    Some(match bytes.is_empty() || bytes.start >= len {
        true => SelectedRange::Unsatisfiable,
        false => SelectedRange::Bytes(bytes),
    })
}

/// Parses a number: `Some(None)` if the text is empty, and `usize::MAX` if the number is too large.
fn number(text: &str) -> Option<Option<usize>> {
    if text.is_empty() {
        return Some(None);
    }
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| Some(text.parse().unwrap_or(usize::MAX)))
}

#[cfg(test)]
mod tests {
    use http::{
        HeaderName, HeaderValue,
        header::{DATE, ETAG, IF_RANGE, LAST_MODIFIED},
    };

    use super::*;

    fn headers(fields: &[(HeaderName, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name.clone(), HeaderValue::from_static(value));
        }
        headers
    }

    fn range_of_ten(range: &'static str) -> SelectedRange {
        part(&headers(&[(RANGE, range)]), &HeaderMap::new(), 10)
    }

    #[test]
    fn a_single_range_is_served() {
        assert_eq!(range_of_ten("bytes=0-1"), SelectedRange::Bytes(0..2));
        assert_eq!(range_of_ten("Bytes=3-"), SelectedRange::Bytes(3..10));
        assert_eq!(range_of_ten("bytes=-4"), SelectedRange::Bytes(6..10));
        assert_eq!(range_of_ten("bytes=-40"), SelectedRange::Bytes(0..10));
        assert_eq!(
            range_of_ten("bytes=9-99999999999999999999999"),
            SelectedRange::Bytes(9..10)
        );
    }

    #[test]
    fn range_after_the_end_is_not_satisfiable() {
        assert_eq!(range_of_ten("bytes=10-"), SelectedRange::Unsatisfiable);
        assert_eq!(range_of_ten("bytes=-0"), SelectedRange::Unsatisfiable);
        assert_eq!(
            range_of_ten("bytes=99999999999999999999999-"),
            SelectedRange::Unsatisfiable
        );
    }

    #[test]
    fn all_else_gets_the_whole() {
        for range in [
            "bytes=0-1,3-4",
            "bytes=4-3",
            "bytes=-",
            "bytes=a-b",
            "lines=0-1",
            "bytes",
        ] {
            assert_eq!(range_of_ten(range), SelectedRange::Whole, "{range}");
        }
        let twice = headers(&[(RANGE, "bytes=0-1"), (RANGE, "bytes=0-1")]);
        assert_eq!(part(&twice, &HeaderMap::new(), 10), SelectedRange::Whole);
    }

    #[test]
    fn a_part_of_another_version_gets_the_whole() {
        let stored = headers(&[
            (ETAG, "\"a\""),
            (LAST_MODIFIED, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (DATE, "Sun, 06 Nov 1994 08:49:38 GMT"),
        ]);
        let asked = |condition| {
            part(
                &headers(&[(RANGE, "bytes=0-1"), (IF_RANGE, condition)]),
                &stored,
                10,
            )
        };
        assert_eq!(asked("\"a\""), SelectedRange::Bytes(0..2));
        assert_eq!(
            asked("Sun, 06 Nov 1994 08:49:37 GMT"),
            SelectedRange::Bytes(0..2)
        );
        for condition in ["\"b\"", "W/\"a\"", "Sun, 06 Nov 1994 08:49:38 GMT", ""] {
            assert_eq!(asked(condition), SelectedRange::Whole, "{condition}");
        }
    }

    #[test]
    fn if_range_ignores_weak_last_modified_dates() {
        let changed = "Sun, 06 Nov 1994 08:49:37 GMT";
        let asked = headers(&[(RANGE, "bytes=0-1"), (IF_RANGE, changed)]);
        for sent in [None, Some(changed), Some("Sun, 06 Nov 1994 08:49:36 GMT")] {
            let date = sent.map(|sent| (DATE, sent));
            let fields: Vec<_> = [(LAST_MODIFIED, changed)].into_iter().chain(date).collect();
            assert_eq!(
                part(&asked, &headers(&fields), 10),
                SelectedRange::Whole,
                "{sent:?}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn served_range_is_within_the_body(range in "[bytes=0-9,-]{0,24}", len in 0_usize..20) {
            let mut request = HeaderMap::new();
            request.insert(RANGE, HeaderValue::from_str(&format!("bytes={range}")).unwrap());
            if let SelectedRange::Bytes(bytes) = part(&request, &HeaderMap::new(), len) {
                proptest::prop_assert!(bytes.start < bytes.end && bytes.end <= len);
            }
        }
    }
}
