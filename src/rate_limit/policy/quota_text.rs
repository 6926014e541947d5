//! Quotas as text: `100/minute`, `10/s burst 20`, `1000/month`, `5/10s; 1000/day`.

use std::{fmt, str::FromStr, time::Duration};

use super::quota::{Quota, QuotaPeriod};
use crate::core::error::ConfigError;

/// The names of the units: abbreviations first, then the singular, and the plural last.
const UNITS: [(&[&str], Duration); 7] = [
    (
        &["us", "microsecond", "microseconds"],
        Duration::from_micros(1),
    ),
    (
        &["ms", "millisecond", "milliseconds"],
        Duration::from_millis(1),
    ),
    (&["s", "sec", "second", "seconds"], Duration::from_secs(1)),
    (&["m", "min", "minute", "minutes"], Duration::from_secs(60)),
    (&["h", "hour", "hours"], Duration::from_secs(60 * 60)),
    (&["d", "day", "days"], Duration::from_secs(24 * 60 * 60)),
    (
        &["w", "week", "weeks"],
        Duration::from_secs(7 * 24 * 60 * 60),
    ),
];

/// The names of the calendar periods.
const CALENDAR: [(&[&str], QuotaPeriod); 2] = [
    (&["mo", "month", "months"], QuotaPeriod::Month),
    (&["y", "yr", "year", "years"], QuotaPeriod::Year),
];

/// Several quotas in one string, such as `5/10s; 1000/day`.
///
/// The quotas are separated by `;`, `,` or `|`.
///
/// ```
/// use portcullis::rate_limit::{Quota, Quotas};
///
/// let quotas: Quotas = "5/10s; 1000/day".parse()?;
/// assert_eq!(quotas.iter().last(), Some(&Quota::per_day(1000)));
/// assert_eq!(quotas.to_string(), "5/10s; 1000/day");
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quotas(Vec<Quota>);

impl Quotas {
    /// Returns an iterator over the quotas in the order in which the text lists them.
    pub fn iter(&self) -> std::slice::Iter<'_, Quota> {
        self.0.iter()
    }
}

impl IntoIterator for Quotas {
    type Item = Quota;
    type IntoIter = std::vec::IntoIter<Quota>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Quotas {
    type Item = &'a Quota;
    type IntoIter = std::slice::Iter<'a, Quota>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl FromStr for Quotas {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        text.split([';', ',', '|'])
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl fmt::Display for Quotas {
    /// Formats the quotas, separated by `; `.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, quota) in self.iter().enumerate() {
            let between = if at == 0 { "" } else { "; " };
            write!(f, "{between}{quota}")?;
        }
        Ok(())
    }
}

/// Parses `100/minute`, `100 per minute` or `10 per 1s burst 20`.
///
/// The units are `us`, `ms`, `s`, `m` or `min`, `h`, `d` and `w`, as well as their English names.
/// The units `month` and `year` are calendar periods. Case is ignored, so `M` is a minute.
///
/// # Errors
///
/// Returns an error if the text has another form or if no policy can count the quota.
impl FromStr for Quota {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let error = |problem: &str| {
            ConfigError::new("quota", text, problem)
                .fix("write it as `100/minute`, `5/10s` or `10 per second burst 20`")
        };
        let lower = text.to_ascii_lowercase();
        let (rate, burst) = match lower.split_once("burst") {
            Some((rate, burst)) => (rate, Some(burst)),
            None => (&*lower, None),
        };
        let (limit, window) = rate
            .split_once('/')
            .or_else(|| rate.split_once(" per "))
            .ok_or_else(|| error("it contains neither `/` nor `per`"))?;
        let limit = number(limit).ok_or_else(|| error("it does not start with a number"))?;
        let period = period_of(window).ok_or_else(|| error("its window is not a time"))?;
        let quota = Self::of(limit, period);
        let quota = match burst.map(number) {
            None => quota,
            Some(Some(burst)) => quota.burst(burst),
            Some(None) => return Err(error("its burst is not a number")),
        };
        quota.check()?;
        Ok(quota)
    }
}

impl TryFrom<&str> for Quota {
    type Error = ConfigError;

    fn try_from(text: &str) -> Result<Self, ConfigError> {
        text.parse()
    }
}

impl TryFrom<String> for Quota {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Self, ConfigError> {
        text.parse()
    }
}

/// A [`Quota`], or a value that converts into one, such as the string `"100/minute"`, which is
/// [parsed](Quota#impl-FromStr-for-Quota).
///
/// This trait is implemented for every type that converts into a quota through `TryInto`.
pub trait IntoQuota {
    /// Converts the value into a quota.
    ///
    /// # Errors
    ///
    /// Returns an error if the text cannot be parsed as a quota.
    fn into_quota(self) -> Result<Quota, ConfigError>;
}

impl<T> IntoQuota for T
where
    T: TryInto<Quota>,
    T::Error: Into<ConfigError>,
{
    fn into_quota(self) -> Result<Quota, ConfigError> {
        self.try_into().map_err(Into::into)
    }
}

impl fmt::Display for Quota {
    /// Formats the quota as `100/minute`, `5/10s` or `10/second burst 20`. Includes the burst only
    /// if it was set.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.limit())?;
        match self.period() {
            QuotaPeriod::Fixed(window) => write_window(f, window)?,
            QuotaPeriod::Month => f.write_str("month")?,
            QuotaPeriod::Year => f.write_str("year")?,
        }
        match self.own_burst() {
            Some(burst) => write!(f, " burst {burst}"),
            None => Ok(()),
        }
    }
}

/// Formats a window as `minute` or `10s`. A window that no policy can count is formatted in a way
/// that cannot be parsed.
fn write_window(f: &mut fmt::Formatter<'_>, window: Duration) -> fmt::Result {
    let nanos = |duration: Duration| duration.as_nanos();
    let fits = |unit: &Duration| nanos(window).is_multiple_of(nanos(*unit));
    match UNITS.iter().rev().find(|(_, unit)| fits(unit)) {
        _ if window.is_zero() => f.write_str("0s"),
        Some((names, unit)) => match nanos(window) / nanos(*unit) {
            1 => f.write_str(singular(names)),
            count => write!(f, "{count}{}", names[0]),
        },
        None => write!(f, "{:?}", window),
    }
}

/// Returns the singular, which is the second-to-last name.
fn singular(names: &[&'static str]) -> &'static str {
    names[names.len() - 2]
}

fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'_');
    // `parse` also accepts a sign.
    plain.then(|| text.replace('_', "").parse().ok()).flatten()
}

/// Parses a period such as `minute`, `10s`, `1 hour` or `month`.
fn period_of(text: &str) -> Option<QuotaPeriod> {
    let text = text.trim();
    let digits = text.find(|char: char| !char.is_ascii_digit())?;
    let (count, unit) = text.split_at(digits);
    let count = if count.is_empty() { 1 } else { number(count)? };
    let is_named = |names: &[&str]| names.contains(&unit.trim());
    if let Some((_, period)) = CALENDAR.iter().find(|(names, _)| is_named(names)) {
        return (count == 1).then_some(*period);
    }
    let (_, unit) = UNITS.iter().find(|(names, _)| is_named(names))?;
    let micros = count.checked_mul(u64::try_from(unit.as_micros()).ok()?)?;
    Some(QuotaPeriod::Fixed(Duration::from_micros(micros)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rate_limit::policy::policy::Policy;

    fn quota(text: &str) -> Quota {
        text.parse().unwrap()
    }

    #[test]
    fn parses_quota_text() {
        assert_eq!(quota("100/minute"), Quota::per_minute(100));
        assert_eq!(quota(" 1_000 per day "), Quota::per_day(1_000));
        assert_eq!(quota("10 per 1s burst 20"), Quota::per_second(10).burst(20));
        assert_eq!(quota("5/10 s"), Quota::new(5, Duration::from_secs(10)));
        assert_eq!(quota("7/250ms"), Quota::new(7, Duration::from_millis(250)));
        assert_eq!(
            quota("1/2 hours"),
            Quota::new(1, Duration::from_secs(7_200))
        );
    }

    #[test]
    fn it_is_written_as_it_was_read() {
        for text in [
            "100/minute",
            "5/10s",
            "10/second burst 20",
            "3/36h",
            "1/week",
            "7/250ms",
        ] {
            assert_eq!(quota(text).to_string(), text);
        }
        assert_eq!(
            quota("10 per 1s burst 20").to_string(),
            "10/second burst 20"
        );
        assert_eq!(quota("1/1000000us").to_string(), "1/second");
    }

    #[test]
    fn rejects_invalid_quota_text_with_an_example() {
        for text in [
            "",
            "100",
            "/minute",
            "-1/s",
            "+1/s",
            "1/",
            "1/fortnight",
            "1/10",
            "1/s burst",
            "0/s",
            "1/0s",
            "1/2months",
            "1/month burst 0",
            "1/s burst 0",
            "18446744073709551615/s",
            "18446744073709551615/s burst 2",
            "1/1.5µs",
            "1/s burst -2",
            "1/99999999999999999999d",
            "1/4000000000d",
            "1/18446744073709551615w",
            "x/s",
            "1/s; 2/m",
            "1/s, 2/m",
        ] {
            let error = text.parse::<Quota>().unwrap_err();
            assert_eq!(error.option(), "quota", "{text}");
        }
        let error = "ten/s".parse::<Quota>().unwrap_err().to_string();
        assert!(error.contains("`ten/s`") && error.contains("`100/minute`"));
    }

    #[test]
    fn several_quotas_are_one_text() {
        let quotas: Quotas = "5/10s; 1000/day".parse().unwrap();
        let [short, daily] = quotas.0[..] else {
            panic!("there are two")
        };
        assert_eq!(short, Quota::new(5, Duration::from_secs(10)));
        assert_eq!(daily, Quota::per_day(1_000));
        assert!("5/10s;".parse::<Quotas>().is_err());
        for text in [
            "5/10s,1000/day",
            "5/10s | 1000/DAY",
            "5 PER 10S, 1000 Per Day",
        ] {
            assert_eq!(text.parse::<Quotas>().unwrap(), quotas);
        }
    }

    #[test]
    fn case_of_units_does_not_matter_and_calendar_periods_are_known() {
        assert_eq!(quota("100/MINUTE"), Quota::per_minute(100));
        assert_eq!(quota("100/M BURST 7"), Quota::per_minute(100).burst(7));
        assert_eq!(quota("5/Month"), Quota::per_month(5));
        assert_eq!(quota("5 per 1 year"), Quota::per_year(5));
        assert_eq!(Quota::per_month(5).to_string(), "5/month");
        assert_eq!(Quota::per_year(5).burst(2).to_string(), "5/year burst 2");
        assert_ne!(quota("5/month"), quota("5/31d"));
    }

    #[test]
    fn window_of_more_than_u32_microseconds_reads_back() {
        let quota = Quota::new(5, Duration::from_micros(4_294_967_296));
        assert_eq!(quota.to_string(), "5/4294967296us");
        assert_eq!(quota.to_string().parse(), Ok(quota));
    }

    fn any_quota() -> impl Strategy<Value = Quota> {
        let number = || {
            prop_oneof![
                any::<u64>(),
                0_u64..100,
                Just(u64::MAX),
                (0_u32..64).prop_map(|shift| 1 << shift)
            ]
        };
        let window = prop_oneof![
            (any::<u64>(), 0_u32..1_000_000_000)
                .prop_map(|(secs, nanos)| Duration::new(secs, nanos)),
            number().prop_map(Duration::from_micros),
            number().prop_map(Duration::from_nanos),
            number().prop_map(Duration::from_secs),
        ];
        let period = prop_oneof![
            4 => window.prop_map(QuotaPeriod::Fixed),
            1 => Just(QuotaPeriod::Month),
            1 => Just(QuotaPeriod::Year),
        ];
        (number(), period, proptest::option::of(number())).prop_map(|(limit, period, burst)| {
            let quota = Quota::of(limit, period);
            burst.map_or(quota, |burst| quota.burst(burst))
        })
    }

    fn some_policy_counts(quota: Quota) -> bool {
        let makes = [
            Policy::fixed_window,
            Policy::sliding_window,
            Policy::token_bucket,
        ];
        makes.iter().any(|make| make("p", quota).is_ok())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn quota_reads_back_if_some_policy_counts_it_and_is_refused_otherwise(
            quota in any_quota(),
        ) {
            let read = quota.to_string().parse::<Quota>();
            match some_policy_counts(quota) {
                true => prop_assert_eq!(read, Ok(quota)),
                false => prop_assert!(read.is_err(), "{} is read", quota),
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>(), tail in "[0-9/ a-z]{0,12}") {
            let _ = text.parse::<Quotas>();
            let _ = tail.parse::<Quotas>();
        }
    }
}
