//! The amount that one caller can use in each period.

use std::{fmt, str::FromStr, time::Duration};

use super::error::ConfigError;

/// The maximum amount that can be counted exactly.
const AMOUNT_MAX: u64 = 1 << 53;
const PERIOD_MAX: Duration = Duration::from_secs(10 * 366 * DAY_SECS);
const DAY_SECS: u64 = 24 * 60 * 60;

/// An amount that one caller can use in each period: the credits of a key, or the caller's own
/// limit.
///
/// The text format is an amount and a period, such as `1000/day`, `50000/month` or `20/90s`.
///
/// ```
/// use portcullis::Allowance;
///
/// let credits: Allowance = "50000/month".parse()?;
/// assert_eq!(credits, Allowance::per_month(50_000)?);
/// assert_eq!(Allowance::per_day(1_000)?.to_string(), "1000/day");
/// assert!("0/day".parse::<Allowance>().is_err());
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Allowance {
    amount: u64,
    period: AllowancePeriod,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum AllowancePeriod {
    Every(Duration),
    Month,
}

impl Allowance {
    /// Creates an allowance whose period starts with its first use.
    ///
    /// # Errors
    ///
    /// Returns an error if the amount is 0 or more than 2^53, or if the period is not a whole
    /// number of milliseconds from 1 ms to ten years.
    pub fn new(amount: u64, period: Duration) -> Result<Self, ConfigError> {
        Self::checked(amount, AllowancePeriod::Every(period))
    }

    /// Creates an allowance per hour.
    ///
    /// # Errors
    ///
    /// Returns an error if the amount is 0 or more than 2^53.
    pub fn per_hour(amount: u64) -> Result<Self, ConfigError> {
        Self::new(amount, Duration::from_secs(60 * 60))
    }

    /// Creates an allowance per 24 hours.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`Allowance::per_hour`].
    pub fn per_day(amount: u64) -> Result<Self, ConfigError> {
        Self::new(amount, Duration::from_secs(DAY_SECS))
    }

    /// Creates an allowance per calendar month. Each month starts at midnight UTC.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`Allowance::per_hour`].
    pub fn per_month(amount: u64) -> Result<Self, ConfigError> {
        Self::checked(amount, AllowancePeriod::Month)
    }

    /// Returns the amount that the caller can use in each period.
    pub const fn amount(&self) -> u64 {
        self.amount
    }

    /// Returns the period, or `None` for a calendar month.
    pub const fn period(&self) -> Option<Duration> {
        match self.period {
            AllowancePeriod::Every(period) => Some(period),
            AllowancePeriod::Month => None,
        }
    }

    fn checked(amount: u64, period: AllowancePeriod) -> Result<Self, ConfigError> {
        let own = Self { amount, period };
        let refused =
            |problem: &str, fix: &str| Err(ConfigError::new("allowance", own, problem).fix(fix));
        if !(1..=AMOUNT_MAX).contains(&amount) {
            return refused(
                "an amount must be 1 to 2^53",
                "disable the key to allow nothing",
            );
        }
        match period {
            AllowancePeriod::Every(period)
                if period.is_zero()
                    || period > PERIOD_MAX
                    || period.subsec_nanos() % 1_000_000 != 0 =>
            {
                refused(
                    "a period must be whole milliseconds, from 1 ms to ten years",
                    "use an hour, a day or a month",
                )
            }
            AllowancePeriod::Every(_) | AllowancePeriod::Month => Ok(own),
        }
    }
}

impl fmt::Display for Allowance {
    /// Formats the allowance in the format that [`str::parse`] accepts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.amount)?;
        let AllowancePeriod::Every(period) = self.period else {
            return f.write_str("month");
        };
        match NAMED
            .iter()
            .find(|(_, secs)| period == Duration::from_secs(*secs))
        {
            Some((name, _)) => f.write_str(name),
            None if period.subsec_nanos() == 0 => write!(f, "{}s", period.as_secs()),
            None => write!(f, "{}ms", period.as_millis()),
        }
    }
}

const NAMED: [(&str, u64); 4] = [
    ("second", 1),
    ("minute", 60),
    ("hour", 60 * 60),
    ("day", DAY_SECS),
];

impl FromStr for Allowance {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let read = || {
            let (amount, period) = text.split_once('/')?;
            let plain = amount.bytes().all(|byte| byte.is_ascii_digit());
            let amount = amount.parse().ok().filter(|_| plain)?;
            Some((amount, read_period(period)?))
        };
        let (amount, period) = read().ok_or_else(|| {
            let shown: String = text.chars().take(64).collect();
            ConfigError::new(
                "allowance",
                shown.escape_debug(),
                "it is not an amount and a period",
            )
            .fix("write it as `1000/day`, `50000/month` or `20/90s`")
        })?;
        Self::checked(amount, period)
    }
}

fn read_period(text: &str) -> Option<AllowancePeriod> {
    if text == "month" {
        return Some(AllowancePeriod::Month);
    }
    if let Some((_, secs)) = NAMED.iter().find(|(name, _)| *name == text) {
        return Some(AllowancePeriod::Every(Duration::from_secs(*secs)));
    }
    let (number, unit): (_, fn(u64) -> Duration) = match text.strip_suffix("ms") {
        Some(number) => (number, Duration::from_millis),
        None => (text.strip_suffix('s')?, Duration::from_secs),
    };
    let plain = number.bytes().all(|byte| byte.is_ascii_digit());
    let number = number.parse().ok().filter(|_| plain)?;
    Some(AllowancePeriod::Every(unit(number)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rejects_invalid_allowances() {
        for wrong in [
            "",
            "/",
            "5",
            "5/",
            "/day",
            "0/day",
            "+5/day",
            "5/ day",
            "5/0s",
            "5/0ms",
            "5/-1s",
            "9007199254740993/day",
            "5/fortnight",
            "5/316224001s",
            "5/s",
            "5/1.5s",
        ] {
            assert!(wrong.parse::<Allowance>().is_err(), "{wrong}");
        }
        assert!(Allowance::new(1, Duration::from_micros(1_500)).is_err());
        assert!(Allowance::new(1, Duration::MAX).is_err());
    }

    proptest! {
        #[test]
        fn allowance_text_round_trips(amount in 1..=AMOUNT_MAX, millis in 1..=316_224_000_000_u64) {
            let own = Allowance::new(amount, Duration::from_millis(millis)).unwrap();
            prop_assert_eq!(own.to_string().parse(), Ok(own));
            let monthly = Allowance::per_month(amount).unwrap();
            prop_assert_eq!(monthly.to_string().parse(), Ok(monthly));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in any::<String>()) {
            let _ = text.parse::<Allowance>();
        }
    }
}
