//! What a response says of the limits.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

use super::{
    decision::{Decision, Decisions},
    policy::Policy,
};

static RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
static RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
static X_RATELIMIT_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
static X_RATELIMIT_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
static X_RATELIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// The largest integer of a structured field (RFC 9651 section 3.3.1).
const INTEGER_MAX: u64 = 999_999_999_999_999;

/// Which header fields tell a caller of its limits.
///
/// A `429` always has `Retry-After`; these come beside it, on each response. They are appended to
/// what is there: several limiters on one request each speak for themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RateLimitFields {
    /// None.
    #[default]
    Off,
    /// `RateLimit-Policy: "burst";q=20;w=2` and `RateLimit: "burst";r=7;t=2`, for each policy: the
    /// syntax of draft-ietf-httpapi-ratelimit-headers-11.
    Draft11,
    /// `X-RateLimit-Limit`, `-Remaining` and `-Reset`, of the policy that is nearest to its end.
    XRateLimit(ResetForm),
}

/// How `X-RateLimit-Reset` says when the quota is whole again: sites differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ResetForm {
    /// In so many seconds from now, rounded up.
    Delta,
    /// At this second of the Unix epoch, rounded up.
    Epoch,
}

/// The lines that go into one response.
#[derive(Debug, Default)]
pub(super) enum Lines {
    #[default]
    None,
    Draft11 {
        policy: HeaderValue,
        limit: HeaderValue,
    },
    XRateLimit([HeaderValue; 3]),
}

impl Lines {
    /// `policy` is what [`policy_field`] rendered of the policies.
    #[inline]
    pub(super) fn new(
        fields: RateLimitFields,
        policies: &[Policy],
        policy: &HeaderValue,
        decisions: &Decisions,
    ) -> Self {
        if fields == RateLimitFields::Off || policies.iter().all(Policy::is_shadow) {
            return Self::None;
        }
        match fields {
            RateLimitFields::Off => Self::None,
            RateLimitFields::Draft11 => Self::Draft11 {
                policy: policy.clone(),
                limit: limit_field(policies, decisions),
            },
            RateLimitFields::XRateLimit(form) => {
                Self::XRateLimit(x_ratelimit(form, policies, decisions))
            }
        }
    }

    pub(super) fn append_to(self, headers: &mut HeaderMap) {
        match self {
            Self::None => {}
            Self::Draft11 { policy, limit } => {
                headers.append(&RATELIMIT_POLICY, policy);
                headers.append(&RATELIMIT, limit);
            }
            Self::XRateLimit([limit, remaining, reset]) => {
                headers.append(&X_RATELIMIT_LIMIT, limit);
                headers.append(&X_RATELIMIT_REMAINING, remaining);
                headers.append(&X_RATELIMIT_RESET, reset);
            }
        }
    }
}

/// Room for the values of a few policies without an allocation but the value's own.
type Text = SmallVec<[u8; 128]>;

/// Renders `"burst";q=20;w=2, "daily";q=1000;w=86400`.
pub(super) fn policy_field(policies: &[Policy]) -> HeaderValue {
    let mut text = Text::new();
    for policy in policies.iter().filter(|policy| !policy.is_shadow()) {
        push_name(&mut text, policy.name());
        push_parameter(&mut text, b";q=", policy.capacity());
        push_parameter(&mut text, b";w=", policy.window_secs());
    }
    value(&text)
}

/// Renders `"burst";r=7;t=2, "daily";r=900;t=3600`.
fn limit_field(policies: &[Policy], decisions: &Decisions) -> HeaderValue {
    let mut text = Text::new();
    for (policy, decision) in enforced(policies, decisions) {
        push_name(&mut text, policy.name());
        push_parameter(&mut text, b";r=", decision.remaining());
        push_parameter(&mut text, b";t=", effective_secs(decision));
    }
    value(&text)
}

fn enforced<'a>(
    policies: &'a [Policy],
    decisions: &'a Decisions,
) -> impl Iterator<Item = (&'a Policy, &'a Decision)> {
    let said = policies.iter().zip(decisions.each());
    said.filter(|(policy, _)| !policy.is_shadow())
}

/// Returns for how many seconds the caller can use no more than what remains, rounded up.
fn effective_secs(decision: &Decision) -> u64 {
    seconds(
        decision
            .retry_after()
            .unwrap_or_else(|| decision.reset_after()),
    )
}

fn x_ratelimit(form: ResetForm, policies: &[Policy], decisions: &Decisions) -> [HeaderValue; 3] {
    let nearest = enforced(policies, decisions).min_by(|(one, this), (other, that)| {
        // this / one < that / other, without a division.
        let share = u128::from(this.remaining()) * u128::from(other.capacity());
        let other_share = u128::from(that.remaining()) * u128::from(one.capacity());
        let longer = that.retry_after().cmp(&this.retry_after());
        (this.is_admitted().cmp(&that.is_admitted()))
            .then(longer)
            .then(share.cmp(&other_share))
    });
    let (policy, decision) = nearest.expect("one policy at least is enforced");
    let reset = match form {
        ResetForm::Delta => effective_secs(decision),
        ResetForm::Epoch => {
            let wait = decision
                .retry_after()
                .unwrap_or_else(|| decision.reset_after());
            (decisions.at() + wait).as_micros().div_ceil(1_000_000)
        }
    };
    [policy.capacity(), decision.remaining(), reset].map(HeaderValue::from)
}

/// Appends the name as a string of RFC 9651, after a comma where one is due.
fn push_name(text: &mut Text, name: &str) {
    if !text.is_empty() {
        text.extend_from_slice(b", ");
    }
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
    let mut digits = [0; 15];
    let mut rest = value.min(INTEGER_MAX);
    let mut from = digits.len();
    loop {
        from -= 1;
        digits[from] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    text.extend_from_slice(&digits[from..]);
}

fn value(text: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(text).expect("policies have names of printable ASCII")
}

fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        rate_limit::{decision::Receipt, quota::Quota},
        time::Timestamp,
    };

    fn policies() -> [Policy; 2] {
        [
            Policy::token_bucket("b\"u\\rst", Quota::per_second(10).burst(25)).unwrap(),
            Policy::aligned_window("daily", Quota::per_day(1_000)).unwrap(),
        ]
    }

    fn decisions() -> Decisions {
        let millis = Duration::from_millis;
        Decisions::new(
            false,
            Timestamp::from_secs(100),
            [
                Decision::denied(0, millis(2_500), Some(millis(99))),
                Decision::admitted(999, millis(3_600_001), Receipt::default()),
            ],
        )
    }

    fn lines(fields: RateLimitFields) -> HeaderMap {
        let policies = policies();
        let mut headers = HeaderMap::new();
        Lines::new(fields, &policies, &policy_field(&policies), &decisions())
            .append_to(&mut headers);
        headers
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
        let headers = lines(RateLimitFields::XRateLimit(ResetForm::Delta));
        assert_eq!(headers["x-ratelimit-limit"], "25");
        assert_eq!(headers["x-ratelimit-remaining"], "0");
        assert_eq!(headers["x-ratelimit-reset"], "1");
        let headers = lines(RateLimitFields::XRateLimit(ResetForm::Epoch));
        assert_eq!(headers["x-ratelimit-reset"], "101");
    }

    #[test]
    fn without_fields_nothing_is_added() {
        assert!(lines(RateLimitFields::Off).is_empty());
    }

    #[test]
    fn no_integer_is_larger_than_a_structured_field_may_hold() {
        let mut text = Text::new();
        push_parameter(&mut text, b"", u64::MAX);
        assert_eq!(&text[..], b"999999999999999");
    }
}
