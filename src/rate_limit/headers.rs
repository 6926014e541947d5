//! The rate-limit header fields of responses.

use std::{cmp::Ordering, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Response};
use smallvec::SmallVec;

use super::{decision::decision::Decision, policy::policy::Policy};
use crate::core::time::Timestamp;

static RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
static RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
static X_RATELIMIT_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
static X_RATELIMIT_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
static X_RATELIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// The largest integer that a structured field can contain (RFC 9651 section 3.3.1).
const INTEGER_MAX: u64 = 999_999_999_999_999;

/// The header fields that report limits to clients.
///
/// A `429` response always has `Retry-After`. The selected fields are added to every response. If
/// several limiters handle one request, each of them appends its own draft fields, so the response
/// contains the draft fields of all limiters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RateLimitFields {
    /// No fields.
    #[default]
    Off,
    /// `RateLimit-Policy: "burst";q=20;w=2` and `RateLimit: "burst";r=7;t=2`, with an item for each
    /// policy, in the syntax of draft-ietf-httpapi-ratelimit-headers-11.
    Draft11,
    /// `X-RateLimit-Limit`, `-Remaining` and `-Reset`, each with a single value. Among the policies
    /// of all limiters that send these fields, the policy nearest to its limit determines the
    /// values. Fields with the same names from the inner service are replaced.
    XRateLimit(ResetFormat),
}

/// The format of `X-RateLimit-Reset`, which is the time at which the quota is full again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ResetFormat {
    /// The number of seconds from now, rounded up.
    Delta,
    /// The number of seconds since the Unix epoch, rounded up.
    Epoch,
}

/// The constant parts of a policy list's fields, rendered once.
#[derive(Debug)]
pub(crate) struct Texts {
    /// `"burst";q=20;w=2, "daily";q=1000;w=86400`
    policy: HeaderValue,
    /// The text before each remaining amount: `"burst";r=` and `, "daily";r=`. Empty for a policy
    /// that is hidden or in shadow mode.
    openings: Box<[Box<[u8]>]>,
    is_silent: bool,
}

impl Texts {
    pub(super) fn new(policies: &[Policy]) -> Self {
        let mut policy_field = Text::new();
        let mut openings = Vec::with_capacity(policies.len());
        for policy in policies {
            let mut opening = Text::new();
            if policy.is_reported() {
                if !policy_field.is_empty() {
                    opening.extend_from_slice(b", ");
                }
                push_name(&mut opening, policy.name());
                policy_field.extend_from_slice(&opening);
                push_parameter(&mut policy_field, b";q=", policy.capacity());
                push_parameter(&mut policy_field, b";w=", policy.window_secs());
                opening.extend_from_slice(b";r=");
            }
            openings.push(opening.to_vec().into());
        }
        Self {
            is_silent: !policies.iter().any(Policy::is_reported),
            policy: value(&policy_field),
            openings: openings.into(),
        }
    }
}

/// The fields of one response.
#[derive(Debug, Default)]
pub(super) enum LimitLines {
    #[default]
    None,
    Draft11 {
        policy: HeaderValue,
        limit: HeaderValue,
    },
    // Boxed, so that the other variants are small.
    XRateLimit(Box<Legacy>),
}

/// The fields of one policy, and the distance of the policy from its limit.
#[derive(Debug)]
pub(super) struct Legacy {
    values: [HeaderValue; 3],
    nearness: Nearness,
}

/// The distance of a policy from its limit, stored in the response extensions together with the
/// fields of the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Nearness {
    is_admitted: bool,
    retry_after: Option<Duration>,
    remaining: u64,
    capacity: u64,
}

impl Nearness {
    fn of(policy: &Policy, decision: &Decision) -> Self {
        Self {
            is_admitted: decision.is_admitted(),
            retry_after: decision.retry_after(),
            remaining: decision.remaining(),
            capacity: policy.capacity(),
        }
    }

    /// Compares two distances. The nearer one is less.
    fn order(&self, other: &Self) -> Ordering {
        // self.remaining / self.capacity < other.remaining / other.capacity, without a division.
        let share = u128::from(self.remaining) * u128::from(other.capacity);
        let other_share = u128::from(other.remaining) * u128::from(self.capacity);
        (self.is_admitted.cmp(&other.is_admitted))
            .then(other.retry_after.cmp(&self.retry_after))
            .then(share.cmp(&other_share))
    }
}

impl Legacy {
    /// Replaces the fields of the response, unless the existing fields belong to a nearer policy.
    fn write_to<B>(self, response: &mut Response<B>) {
        let written: Option<&Nearness> = response.extensions().get();
        if written.is_some_and(|written| written.order(&self.nearness).is_le()) {
            return;
        }
        let [limit, remaining, reset] = self.values;
        let headers = response.headers_mut();
        headers.insert(&X_RATELIMIT_LIMIT, limit);
        headers.insert(&X_RATELIMIT_REMAINING, remaining);
        headers.insert(&X_RATELIMIT_RESET, reset);
        response.extensions_mut().insert(self.nearness);
    }
}

impl LimitLines {
    /// Creates the fields. `texts` and `decided` are in the order of `policies`.
    #[inline]
    pub(super) fn new(
        fields: RateLimitFields,
        policies: &[Policy],
        texts: &Texts,
        at: Timestamp,
        decided: &[Decision],
    ) -> Self {
        if fields == RateLimitFields::Off || texts.is_silent {
            return Self::None;
        }
        match fields {
            RateLimitFields::Off => Self::None,
            RateLimitFields::Draft11 => Self::Draft11 {
                policy: texts.policy.clone(),
                limit: limit_field(texts, decided),
            },
            RateLimitFields::XRateLimit(form) => {
                Self::XRateLimit(Box::new(x_ratelimit(form, policies, at, decided)))
            }
        }
    }

    // Outlined: most responses have no fields.
    #[inline(never)]
    pub(super) fn write_to<B>(self, response: &mut Response<B>) {
        match self {
            Self::None => {}
            Self::Draft11 { policy, limit } => append_draft(response.headers_mut(), policy, limit),
            Self::XRateLimit(legacy) => legacy.write_to(response),
        }
    }
}

fn append_draft(headers: &mut HeaderMap, policy: HeaderValue, limit: HeaderValue) {
    headers.append(&RATELIMIT_POLICY, policy);
    headers.append(&RATELIMIT, limit);
}

/// A buffer for the values of a few policies, so that only the header value itself allocates.
type Text = SmallVec<[u8; 128]>;

/// Renders `"burst";r=7;t=2, "daily";r=900;t=3600`.
fn limit_field(texts: &Texts, decided: &[Decision]) -> HeaderValue {
    let mut text = Text::new();
    for (opening, decision) in texts.openings.iter().zip(decided) {
        if !opening.is_empty() {
            text.extend_from_slice(opening);
            push_said(&mut text, decision);
        }
    }
    value(&text)
}

/// Appends `7;t=2`.
fn push_said(text: &mut Text, decision: &Decision) {
    const NAME: &[u8] = b";t=";

    let mut bytes = [0; 2 * DIGITS_MAX + NAME.len()];
    let end = bytes.len();
    let name_to = write_digits(&mut bytes, end, decision.effective_secs());
    let name_from = name_to - NAME.len();
    bytes[name_from..name_to].copy_from_slice(NAME);
    let from = write_digits(&mut bytes, name_from, decision.remaining());
    text.extend_from_slice(&bytes[from..]);
}

fn reported<'a>(
    policies: &'a [Policy],
    decided: &'a [Decision],
) -> impl Iterator<Item = (&'a Policy, &'a Decision)> {
    let said = policies.iter().zip(decided);
    said.filter(|(policy, _)| policy.is_reported())
}

fn x_ratelimit(
    form: ResetFormat,
    policies: &[Policy],
    at: Timestamp,
    decided: &[Decision],
) -> Legacy {
    let nearest = reported(policies, decided)
        .map(|(policy, decision)| (Nearness::of(policy, decision), decision))
        .min_by(|(one, _), (other, _)| one.order(other));
    let (nearness, decision) = nearest.expect("at least one policy is reported");
    let reset = match form {
        ResetFormat::Delta => decision.effective_secs(),
        ResetFormat::Epoch => {
            let wait = decision
                .retry_after()
                .unwrap_or_else(|| decision.reset_after());
            (at + wait).as_micros().div_ceil(1_000_000)
        }
    };
    Legacy {
        values: [nearness.capacity, nearness.remaining, reset].map(HeaderValue::from),
        nearness,
    }
}

/// Appends the name as an RFC 9651 string.
fn push_name(text: &mut Text, name: &str) {
    text.push(b'"');
    for byte in name.bytes() {
        if matches!(byte, b'"' | b'\\') {
            text.push(b'\\');
        }
        text.push(byte);
    }
    text.push(b'"');
}

fn push_parameter(text: &mut Text, name: &[u8], value: u64) {
    text.extend_from_slice(name);
    let mut digits = [0; DIGITS_MAX];
    let from = write_digits(&mut digits, DIGITS_MAX, value);
    text.extend_from_slice(&digits[from..]);
}

/// The number of digits in the largest integer, rounded up to an even number.
const DIGITS_MAX: usize = 16;

/// Writes the digits of a number before the index `to` and returns the index of the first digit.
fn write_digits(bytes: &mut [u8], to: usize, value: u64) -> usize {
    let (mut rest, mut from) = (value.min(INTEGER_MAX), to);
    // In pairs, because divisions dominate the time.
    while rest >= 10 {
        let two = 2 * (rest % 100) as usize;
        rest /= 100;
        from -= 2;
        bytes[from..from + 2].copy_from_slice(&TWO_DIGITS[two..two + 2]);
    }
    if rest > 0 || from == to {
        from -= 1;
        bytes[from] = b'0' + rest as u8;
    }
    from
}

/// The strings `00` to `99`.
const TWO_DIGITS: [u8; 200] = {
    let mut digits = [0; 200];
    let mut at = 0;
    while at < 100 {
        digits[2 * at] = b'0' + (at / 10) as u8;
        digits[2 * at + 1] = b'0' + (at % 10) as u8;
        at += 1;
    }
    digits
};

fn value(text: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(text).expect("policies have names of printable ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate_limit::{decision::decision::Receipt, policy::quota::Quota};

    fn policies() -> [Policy; 2] {
        [
            Policy::token_bucket("b\"u\\rst", Quota::per_second(10).burst(25)).unwrap(),
            Policy::aligned_window("daily", Quota::per_day(1_000)).unwrap(),
        ]
    }

    fn decided() -> [Decision; 2] {
        let millis = Duration::from_millis;
        [
            Decision::denied(0, millis(2_500), Some(millis(99))),
            Decision::admitted(999, millis(3_600_001), Receipt::default()),
        ]
    }

    fn lines(fields: RateLimitFields) -> HeaderMap {
        let policies = policies();
        let (texts, at) = (Texts::new(&policies), Timestamp::from_secs(100));
        written(LimitLines::new(fields, &policies, &texts, at, &decided()))
    }

    fn written(lines: LimitLines) -> HeaderMap {
        let mut response = Response::new(());
        lines.write_to(&mut response);
        response.into_parts().0.headers
    }

    #[test]
    fn each_policy_speaks_under_its_own_name() {
        let headers = lines(RateLimitFields::Draft11);
        assert_eq!(
            headers["ratelimit-policy"],
            r#""b\"u\\rst";q=25;w=3, "daily";q=1000;w=86400"#
        );
        assert_eq!(
            headers["ratelimit"],
            r#""b\"u\\rst";r=0;t=1, "daily";r=999;t=3601"#
        );
    }

    #[test]
    fn the_older_fields_speak_of_the_policy_that_is_nearest_to_its_end() {
        let headers = lines(RateLimitFields::XRateLimit(ResetFormat::Delta));
        assert_eq!(headers["x-ratelimit-limit"], "25");
        assert_eq!(headers["x-ratelimit-remaining"], "0");
        assert_eq!(headers["x-ratelimit-reset"], "1");
        let headers = lines(RateLimitFields::XRateLimit(ResetFormat::Epoch));
        assert_eq!(headers["x-ratelimit-reset"], "101");
    }

    #[test]
    fn without_fields_nothing_is_added() {
        assert!(lines(RateLimitFields::Off).is_empty());
    }

    #[test]
    fn no_integer_is_larger_than_a_structured_field_may_hold() {
        let text = |value| {
            let mut text = Text::new();
            push_parameter(&mut text, b"", value);
            String::from_utf8(text.to_vec()).unwrap()
        };
        assert_eq!(text(u64::MAX), "999999999999999");
        for power in 0..15 {
            for value in [
                10_u64.pow(power) - 1,
                10_u64.pow(power),
                5 * 10_u64.pow(power),
            ] {
                assert_eq!(text(value), value.to_string());
            }
        }
    }

    #[test]
    fn a_policy_that_only_watches_is_not_spoken_of_wherever_it_stands() {
        let [one, two] = policies();
        let watching = Policy::token_bucket("w", Quota::per_second(1))
            .unwrap()
            .shadow();
        let said = Decision::admitted(1, Duration::ZERO, Receipt::default());
        let at = Timestamp::EPOCH;
        let [spoken, silent] = [false, true].map(|first| {
            let mut policies = vec![one.clone(), two.clone()];
            policies.insert(usize::from(!first), watching.clone());
            let mut decided = decided().to_vec();
            decided.insert(usize::from(!first), said);
            let texts = Texts::new(&policies);
            let fields = RateLimitFields::Draft11;
            written(LimitLines::new(fields, &policies, &texts, at, &decided))
        });
        assert_eq!(spoken, lines(RateLimitFields::Draft11));
        assert_eq!(silent, spoken);
    }
}
