//! Freshness lifetime and age of a response.

use std::time::Duration;

use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{AGE, DATE, EXPIRES, LAST_MODIFIED},
};

use super::{
    cache_control::{DELTA_SECS_MAX, ResponseDirectives, delta_seconds, member_end},
    date,
};
use crate::core::time::{Clock, Timestamp};

/// The freshness of a response: all values that a hit needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Freshness {
    /// The time of receipt, on the monotonic clock.
    pub(crate) received_at: Timestamp,
    /// The age at that time.
    pub(crate) initial_age_secs: u32,
    /// The freshness lifetime.
    pub(crate) lifetime_secs: u32,
    /// The time after expiry for which it can be served during revalidation.
    pub(crate) while_revalidate_secs: u32,
    /// The time after expiry for which it can be served instead of an error.
    pub(crate) if_error_secs: u32,
    /// `true` if it must be revalidated before each use.
    pub(crate) always_validate: bool,
    /// `true` if it must not be served stale, not even instead of an error.
    pub(crate) never_stale: bool,
}

impl Freshness {
    /// Returns the age of the response (RFC 9111 section 4.2.3).
    pub(crate) fn age_secs(&self, now: Timestamp) -> u32 {
        let resident = (now - self.received_at).as_secs();
        let resident = u32::try_from(resident).unwrap_or(DELTA_SECS_MAX);
        self.initial_age_secs
            .saturating_add(resident)
            .min(DELTA_SECS_MAX)
    }

    /// Returns the remaining freshness lifetime in seconds; zero or negative if the response is
    /// stale.
    pub(crate) fn ttl_secs(&self, now: Timestamp) -> i64 {
        i64::from(self.lifetime_secs) - i64::from(self.age_secs(now))
    }

    /// Returns the time from receipt for which the response is retained, if it is retained for
    /// revalidation for `retain_stale_for` after it expires.
    pub(crate) fn retain(&self, retain_stale_for: Duration) -> Duration {
        let fresh = self.lifetime_secs.saturating_sub(self.initial_age_secs);
        let stale = self.while_revalidate_secs.max(self.if_error_secs);
        Duration::from_secs(u64::from(fresh))
            + Duration::from_secs(stale.into()).max(retain_stale_for)
    }
}

/// The times of a request to the handler and of its response.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times<'a> {
    /// The time at which the handler was called, on the monotonic clock.
    pub(crate) asked_at: Timestamp,
    /// The time at which the head of its response was received, on the monotonic clock.
    pub(crate) received_at: Timestamp,
    /// The clock, which is read for the calendar time only if needed.
    pub(crate) clock: &'a dyn Clock,
}

impl Times<'_> {
    /// Returns the age of a response at its receipt.
    pub(crate) fn initial_age_secs(&self, headers: &HeaderMap) -> u32 {
        let apparent = match headers.get(DATE).and_then(date::parse) {
            Some(date) => self.clock.wall().as_secs().saturating_sub(date.as_secs()),
            None => 0,
        };
        let delay = (self.received_at - self.asked_at).as_secs();
        let corrected = u64::from(age_field(headers).unwrap_or(0)).saturating_add(delay);
        u32::try_from(apparent.max(corrected))
            .unwrap_or(DELTA_SECS_MAX)
            .min(DELTA_SECS_MAX)
    }
}

/// Returns the freshness lifetime that a response states by `s-maxage`, `max-age` or `Expires`, in
/// this order.
pub(super) fn explicit_lifetime_secs(
    directives: &ResponseDirectives,
    headers: &HeaderMap,
    times: &Times<'_>,
) -> Option<u32> {
    directives
        .s_maxage_secs
        .or(directives.max_age_secs)
        .or_else(|| match directives.targeted {
            true => None,
            false => expires_secs(headers, times),
        })
}

/// Estimates the freshness lifetime: a tenth of the time since the last change, at most a day, for
/// statuses that RFC 9110 section 15.1 permits and for `public` responses.
pub(super) fn heuristic_lifetime_secs(
    status: StatusCode,
    directives: &ResponseDirectives,
    headers: &HeaderMap,
    times: &Times<'_>,
) -> Option<u32> {
    const DAY_SECS: u64 = 86_400;
    let allowed = matches!(
        status.as_u16(),
        200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501
    );
    if !allowed && !directives.public {
        return None;
    }
    let modified = single(headers, &LAST_MODIFIED).and_then(date::parse)?;
    let made = made_at(headers, times);
    let unchanged = made.as_secs().saturating_sub(modified.as_secs());
    u32::try_from((unchanged / 10).min(DAY_SECS)).ok()
}

fn expires_secs(headers: &HeaderMap, times: &Times<'_>) -> Option<u32> {
    let first = headers.get(EXPIRES)?;
    // An invalid or repeated field means that the response has expired.
    let Some(expires) = single(headers, &EXPIRES).and(date::parse(first)) else {
        return Some(0);
    };
    let secs = expires
        .as_secs()
        .saturating_sub(made_at(headers, times).as_secs());
    Some(
        u32::try_from(secs)
            .unwrap_or(DELTA_SECS_MAX)
            .min(DELTA_SECS_MAX),
    )
}

fn made_at(headers: &HeaderMap, times: &Times<'_>) -> Timestamp {
    let date = headers.get(DATE).and_then(date::parse);
    date.unwrap_or_else(|| times.clock.wall())
}

/// Returns the value of a field that occurs once.
fn single<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Parses `Age`: the first member of the first line, without its parameters. An invalid number is
/// ignored (RFC 9111 section 5.1).
fn age_field(headers: &HeaderMap) -> Option<u32> {
    let line = headers.get(AGE)?.as_bytes();
    let member = &line[..member_end(line)];
    let number = member.split(|byte| *byte == b';').next()?;
    delta_seconds(number.trim_ascii())
}

#[cfg(test)]
mod tests {
    use http::header::CACHE_CONTROL;

    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(784_111_777);
    const TIMES: Times<'_> = Times {
        asked_at: NOW,
        received_at: NOW,
        clock: &Stopped,
    };

    #[derive(Debug)]
    struct Stopped;

    impl Clock for Stopped {
        fn now(&self) -> Timestamp {
            NOW
        }
    }

    fn headers(fields: &[(http::HeaderName, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name.clone(), HeaderValue::from_static(value));
        }
        headers
    }

    fn lifetime(fields: &[(http::HeaderName, &'static str)]) -> Option<u32> {
        let headers = headers(fields);
        explicit_lifetime_secs(&ResponseDirectives::of(&headers, &[]), &headers, &TIMES)
    }

    #[test]
    fn the_shared_age_goes_before_the_age_before_the_date() {
        let expires = (EXPIRES, "Sun, 06 Nov 1994 08:49:47 GMT");
        let all = [(CACHE_CONTROL, "s-maxage=1, max-age=2"), expires.clone()];
        assert_eq!(lifetime(&all), Some(1));
        assert_eq!(
            lifetime(&[(CACHE_CONTROL, "max-age=2"), expires.clone()]),
            Some(2)
        );
        assert_eq!(lifetime(&[expires]), Some(10));
        assert_eq!(lifetime(&[]), None);
    }

    #[test]
    fn expires_counts_from_the_date_and_not_from_the_receipt() {
        let date = (DATE, "Sun, 06 Nov 1994 08:49:27 GMT");
        assert_eq!(
            lifetime(&[date, (EXPIRES, "Sun, 06 Nov 1994 08:49:37 GMT")]),
            Some(10)
        );
    }

    #[test]
    fn an_unclear_expires_has_expired() {
        assert_eq!(lifetime(&[(EXPIRES, "0")]), Some(0));
        let later = (EXPIRES, "Sun, 06 Nov 1994 08:49:47 GMT");
        assert_eq!(lifetime(&[later.clone(), later]), Some(0));
    }

    #[test]
    fn initial_age_is_the_larger_of_age_field_and_apparent_age() {
        let old = headers(&[(DATE, "Sun, 06 Nov 1994 08:49:07 GMT"), (AGE, "10")]);
        assert_eq!(TIMES.initial_age_secs(&old), 30);
        let said = headers(&[(AGE, "60, 5")]);
        let delayed = Times {
            received_at: NOW + Duration::from_secs(2),
            ..TIMES
        };
        assert_eq!(delayed.initial_age_secs(&said), 62);
    }

    #[test]
    fn an_age_beyond_all_numbers_saturates_and_an_unreadable_one_is_none() {
        let huge = headers(&[(AGE, "18446744073709551615")]);
        assert_eq!(TIMES.initial_age_secs(&huge), DELTA_SECS_MAX);
        assert_eq!(TIMES.initial_age_secs(&headers(&[(AGE, "7 ;a=1")])), 7);
        for value in ["-1", "1.5", "a", "", ";a=1", "a;1"] {
            assert_eq!(
                TIMES.initial_age_secs(&headers(&[(AGE, value)])),
                0,
                "{value}"
            );
        }
    }

    #[test]
    fn the_heuristic_is_a_tenth_and_at_most_a_day() {
        let guess = |status, modified| {
            let headers = headers(&[(LAST_MODIFIED, modified)]);
            heuristic_lifetime_secs(status, &ResponseDirectives::default(), &headers, &TIMES)
        };
        assert_eq!(
            guess(StatusCode::OK, "Sun, 06 Nov 1994 08:47:57 GMT"),
            Some(10)
        );
        assert_eq!(
            guess(StatusCode::OK, "Fri, 06 Nov 1970 08:47:57 GMT"),
            Some(86_400)
        );
        assert_eq!(
            guess(StatusCode::CREATED, "Sun, 06 Nov 1994 08:47:57 GMT"),
            None
        );
    }

    proptest::proptest! {
        #[test]
        fn age_grows_with_time_and_never_overflows(
            initial in 0..=DELTA_SECS_MAX,
            lifetime in 0..=DELTA_SECS_MAX,
            secs in proptest::num::u64::ANY,
        ) {
            let freshness = Freshness {
                received_at: NOW,
                initial_age_secs: initial,
                lifetime_secs: lifetime,
                while_revalidate_secs: 0,
                if_error_secs: 0,
                always_validate: false,
                never_stale: false,
            };
            let now = NOW + Duration::from_secs(secs);
            let age = u64::from(freshness.age_secs(now));
            let resident = (now - NOW).as_secs();
            let expected = (u64::from(initial) + resident.min(1 << 32)).min(1 << 31);
            proptest::prop_assert_eq!(age, expected);
            proptest::prop_assert_eq!(freshness.ttl_secs(now), i64::from(lifetime) - age as i64);
        }
    }
}
