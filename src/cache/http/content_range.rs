//! Partial responses: `Content-Range`, and the combination of parts.

use std::ops::Range;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{CONTENT_RANGE, ETAG},
};

use super::{
    range::{self, SelectedRange},
    revalidation::{self, Comparison},
};
use crate::cache::{entry::entry::StoredResponse, lookup::reason::CacheReason};

/// The position of a stored part in the complete response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ContentRange {
    pub(crate) first: usize,
    /// One past the last byte.
    pub(crate) end: usize,
    /// The length of the complete response, if it is known.
    pub(crate) complete: Option<usize>,
}

impl ContentRange {
    /// Returns the position of a part of `len` bytes. Without a length, the stated position is
    /// returned.
    ///
    /// A part that states to extend to the end of the complete response ends where its content
    /// does, even if the stated end is too large. Any other part must have the stated length.
    pub(crate) fn of(headers: &HeaderMap, len: Option<u64>) -> Result<Self, CacheReason> {
        let stated = Self::stated(headers).ok_or(CacheReason::Partial)?;
        let Some(len) = len else { return Ok(stated) };
        let len = usize::try_from(len).map_err(|_| CacheReason::TooLarge)?;
        let to_the_end = stated.complete == Some(stated.end);
        if len == stated.len() {
            Ok(stated)
        } else if to_the_end && (1..stated.len()).contains(&len) {
            let end = stated.first + len;
            Ok(Self {
                first: stated.first,
                end,
                complete: Some(end),
            })
        } else {
            Err(CacheReason::Incomplete)
        }
    }

    /// Parses `Content-Range` (RFC 9110 section 14.4). Returns `None` unless there is exactly one
    /// valid line.
    pub(crate) fn stated(headers: &HeaderMap) -> Option<Self> {
        let mut lines = headers.get_all(CONTENT_RANGE).iter();
        let (line, None) = (lines.next()?.to_str().ok()?, lines.next()) else {
            return None;
        };
        let (unit, range) = line.split_once(' ')?;
        let (range, complete) = range.trim().split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let complete = match complete {
            "*" => None,
            complete => Some(number(complete)?),
        };
        let (first, end) = (number(first)?, number(last)?.checked_add(1)?);
        let holds = first < end && complete.is_none_or(|complete| end <= complete);
        (holds && unit.eq_ignore_ascii_case("bytes")).then_some(Self {
            first,
            end,
            complete,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.end - self.first
    }

    /// Returns `true` if the part is the complete response.
    fn is_whole(&self) -> bool {
        self.first == 0 && self.complete == Some(self.end)
    }

    pub(crate) fn to_value(self) -> HeaderValue {
        let (first, last) = (self.first, self.end - 1);
        let value = match self.complete {
            Some(complete) => format!("bytes {first}-{last}/{complete}"),
            None => format!("bytes {first}-{last}/*"),
        };
        HeaderValue::try_from(value).expect("digits and punctuation are visible ASCII")
    }
}

fn number(text: &str) -> Option<usize> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// Returns the bytes of the complete response that a request selects, and the position of the
/// stored part. Returns `None` if the part does not contain all of them (RFC 9111 section 3.3).
pub(crate) fn within(
    entry: &StoredResponse,
    asked: &HeaderMap,
) -> Option<(Range<usize>, ContentRange)> {
    let place =
        ContentRange::stated(&entry.headers).filter(|place| place.len() == entry.body.len())?;
    // If the complete length is unknown, a range beyond the part cannot be resolved.
    let len = place.complete.unwrap_or(usize::MAX);
    let SelectedRange::Bytes(wanted) = range::part(asked, &entry.headers, len) else {
        return None;
    };
    let holds = place.first <= wanted.start && wanted.end <= place.end;
    holds.then_some((wanted, place))
}

/// The combination of two parts of one response.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// `true` if the response is complete.
    pub(crate) whole: bool,
}

/// Combines a received part with a stored one (RFC 9111 section 3.4). Returns `None` unless both
/// have the same strong entity tag and complete length, leave no gap, and have at most `max_bytes`
/// together.
pub(crate) fn join(
    stored: &StoredResponse,
    headers: &HeaderMap,
    body: &Bytes,
    max_bytes: u64,
) -> Option<Joined> {
    let (old, new) = (
        ContentRange::stated(&stored.headers)?,
        ContentRange::stated(headers)?,
    );
    let right = old.len() == stored.body.len() && new.len() == body.len();
    let strong = |tag: &&HeaderValue| tag.as_bytes().starts_with(b"\"");
    let (one, two) = (stored.headers.get(ETAG)?, headers.get(ETAG)?);
    let same = one == two && strong(&one) && old.complete == new.complete;
    let touch = old.first <= new.end && new.first <= old.end;
    let place = ContentRange {
        first: old.first.min(new.first),
        end: old.end.max(new.end),
        complete: new.complete,
    };
    if !(right && same && touch) || place.len() as u64 > max_bytes {
        return None;
    }
    let mut joined = Vec::with_capacity(place.len());
    // Received bytes replace stored ones if the parts overlap.
    joined.extend_from_slice(&stored.body[..new.first.saturating_sub(old.first)]);
    joined.extend_from_slice(body);
    let rest = new.end.saturating_sub(old.first);
    joined.extend_from_slice(stored.body.get(rest..).unwrap_or_default());
    let mut headers = revalidation::merged(&stored.headers, headers);
    match place.is_whole() {
        true => headers.remove(CONTENT_RANGE),
        false => headers.insert(CONTENT_RANGE, place.to_value()),
    };
    Some(Joined {
        headers,
        body: joined.into(),
        whole: place.is_whole(),
    })
}

/// Compares a partial response, or the `304` to a client's own condition, with the stored response:
/// its version and complete length.
pub(crate) fn compare(part: &HeaderMap, stored: &StoredResponse) -> Comparison {
    let complete = ContentRange::stated(part).and_then(|place| place.complete);
    let differs = complete.is_some_and(|bytes| bytes as u64 != stored.plain_bytes());
    match differs && stored.status == StatusCode::OK {
        true => Comparison::Other,
        false => revalidation::compare(part, &stored.headers),
    }
}

#[cfg(test)]
mod tests {
    use http::{StatusCode, header::RANGE};

    use super::*;
    use crate::{
        cache::http::{
            freshness::Freshness,
            vary::{VariantId, VarySpec},
        },
        core::{store_api::store_key::StoreKey, time::Timestamp},
    };

    const WHOLE: &[u8] = b"0123456789";

    fn fields(range: &str, etag: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_RANGE, HeaderValue::try_from(range).unwrap());
        headers.insert(ETAG, HeaderValue::from_static(etag));
        headers
    }

    fn place(range: &str, len: Option<u64>) -> Result<ContentRange, CacheReason> {
        ContentRange::of(&fields(range, "\"a\""), len)
    }

    fn at(first: usize, end: usize, complete: Option<usize>) -> Result<ContentRange, CacheReason> {
        Ok(ContentRange {
            first,
            end,
            complete,
        })
    }

    fn stored(first: usize, end: usize, etag: &'static str) -> StoredResponse {
        let stated = format!("bytes {first}-{}/{}", end - 1, WHOLE.len());
        StoredResponse {
            status: StatusCode::PARTIAL_CONTENT,
            headers: fields(&stated, etag),
            body: Bytes::from_static(&WHOLE[first..end]),
            freshness: Freshness {
                received_at: Timestamp::from_secs(1),
                initial_age_secs: 0,
                lifetime_secs: 1,
                while_revalidate_secs: 0,
                if_error_secs: 0,
                always_validate: false,
                never_stale: false,
            },
            vary: VarySpec::default(),
            variant: VariantId::from_bytes([0; 16]),
            partition: StoreKey::from_bytes([0; 16]),
            says_shared: false,
            tags: Vec::new(),
            packed: None,
            seal: None,
        }
    }

    fn wanted(entry: &StoredResponse, range: &str) -> Option<Range<usize>> {
        let mut asked = HeaderMap::new();
        asked.insert(RANGE, HeaderValue::try_from(range).unwrap());
        within(entry, &asked).map(|(wanted, _)| wanted)
    }

    #[test]
    fn parses_position_of_content_range() {
        assert_eq!(place("bytes 4-8/10", Some(5)), at(4, 9, Some(10)));
        assert_eq!(place("Bytes 0-0/*", None), at(0, 1, None));
    }

    #[test]
    fn part_up_to_the_end_is_truncated_to_its_content() {
        assert_eq!(place("bytes 4-9/10", Some(5)), at(4, 9, Some(9)));
        assert_eq!(place("bytes 4-8/10", Some(4)), Err(CacheReason::Incomplete));
        assert_eq!(place("bytes 4-9/10", Some(7)), Err(CacheReason::Incomplete));
        assert_eq!(place("bytes 4-9/10", Some(0)), Err(CacheReason::Incomplete));
    }

    #[test]
    fn part_without_a_position_is_refused() {
        for stated in [
            "bytes */10",
            "bytes 4-3/10",
            "bytes 0-10/10",
            "bytes 0-+1/10",
            "bytes 0-1",
            "bytes",
            "lines 0-1/10",
            "bytes 0-18446744073709551615/*",
            "bytes 99999999999999999999-1/*",
        ] {
            assert_eq!(
                place(stated, Some(1)),
                Err(CacheReason::Partial),
                "{stated}"
            );
        }
        let mut twice = fields("bytes 0-0/10", "\"a\"");
        twice.append(CONTENT_RANGE, HeaderValue::from_static("bytes 1-1/10"));
        assert_eq!(ContentRange::stated(&twice), None);
    }

    #[test]
    fn part_serves_only_ranges_within_it() {
        let part = stored(4, 10, "\"a\"");
        assert_eq!(wanted(&part, "bytes=4-5"), Some(4..6));
        assert_eq!(wanted(&part, "bytes=6-"), Some(6..10));
        assert_eq!(wanted(&part, "bytes=-6"), Some(4..10));
        for outside in [
            "bytes=3-5",
            "bytes=-7",
            "bytes=0-",
            "bytes=4-5,6-7",
            "bytes=20-",
        ] {
            assert_eq!(wanted(&part, outside), None, "{outside}");
        }
    }

    #[test]
    fn suffix_range_of_unknown_length_is_not_served() {
        let mut part = stored(4, 10, "\"a\"");
        let stated = HeaderValue::from_static("bytes 4-9/*");
        part.headers.insert(CONTENT_RANGE, stated);
        assert_eq!(wanted(&part, "bytes=4-9"), Some(4..10));
        for outside in ["bytes=4-", "bytes=-1", "bytes=4-10"] {
            assert_eq!(wanted(&part, outside), None, "{outside}");
        }
    }

    #[test]
    fn parts_of_another_version_or_of_an_unsure_one_are_not_joined() {
        let new = |etag| fields("bytes 5-9/10", etag);
        let join = |old, etag| {
            let body = Bytes::from_static(&WHOLE[5..]);
            join(&stored(0, 5, old), &new(etag), &body, 10).is_some()
        };
        assert!(join("\"a\"", "\"a\""));
        assert!(!join("\"a\"", "\"b\""));
        assert!(!join("W/\"a\"", "W/\"a\""));
        let old = stored(0, 5, "\"a\"");
        let body = Bytes::from_static(&WHOLE[5..]);
        let longer = fields("bytes 5-9/11", "\"a\"");
        assert!(super::join(&old, &longer, &body, 10).is_none());
        assert!(super::join(&old, &new("\"a\""), &body, 9).is_none());
        let unsure = fields("bytes 5-9/10", "");
        assert!(super::join(&old, &unsure, &body, 10).is_none());
    }

    proptest::proptest! {
        #[test]
        fn joined_parts_are_a_part_of_the_whole(
            one in (0_usize..10, 1_usize..=10), two in (0_usize..10, 1_usize..=10),
        ) {
            let end = |(first, len): (usize, usize)| (first + len).min(WHOLE.len());
            let old = stored(one.0, end(one), "\"a\"");
            let new = stored(two.0, end(two), "\"a\"");
            let gap = old.body.len() + new.body.len()
                < end(one).max(end(two)) - one.0.min(two.0);
            let joined = join(&old, &new.headers, &new.body, 10);
            proptest::prop_assert_eq!(joined.is_none(), gap);
            if let Some(joined) = joined {
                let (first, end) = (one.0.min(two.0), end(one).max(end(two)));
                proptest::prop_assert_eq!(&joined.body[..], &WHOLE[first..end]);
                let whole = (first, end) == (0, WHOLE.len());
                proptest::prop_assert_eq!(joined.whole, whole);
                let stated = ContentRange::stated(&joined.headers);
                let stated = stated.map(|place| (place.first, place.end));
                proptest::prop_assert_eq!(stated, (!whole).then_some((first, end)));
            }
        }
    }
}
