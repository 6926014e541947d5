//! Timestamps as RFC 3339 text.

use std::{cell::Cell, ops::Range};

use crate::core::time::Timestamp;

/// `"2026-01-01T00:00:00`: the opening quote and an RFC 3339 timestamp without fractional seconds.
type Second = [u8; 20];

/// Appends an RFC 3339 timestamp with quotes: `"2026-01-01T00:00:00.000000Z"`.
pub(super) fn push_rfc3339(out: &mut Vec<u8>, at: Timestamp) {
    thread_local! {
        /// The last second that this thread wrote, which the next record probably shares.
        static LAST: Cell<(u64, Second)> = const { Cell::new((0, *b"\"1970-01-01T00:00:00")) };
    }

    let secs = at.as_secs();
    let last = LAST.try_with(Cell::get).ok();
    let text = match last.filter(|(last, _)| *last == secs) {
        Some((_, text)) => text,
        None => {
            let text = second(secs);
            let _ = LAST.try_with(|last| last.set((secs, text)));
            text
        }
    };
    out.extend_from_slice(&text);
    out.push(b'.');
    push_digits::<6>(out, at.as_micros() % 1_000_000);
    out.extend_from_slice(b"Z\"");
}

fn second(secs: u64) -> Second {
    let (year, month, day) = civil(secs / 86_400);
    let mut text = *b"\"0000-00-00T00:00:00";
    let mut put = |at: Range<usize>, mut number: u64| {
        for digit in text[at].iter_mut().rev() {
            *digit += (number % 10) as u8;
            number /= 10;
        }
    };
    put(1..5, year);
    put(6..8, month);
    put(9..11, day);
    put(12..14, secs / 3_600 % 24);
    put(15..17, secs / 60 % 60);
    put(18..20, secs % 60);
    text
}

/// Returns the year, month and day of a number of days after 1970-01-01.
///
/// Years start on March 1, so that a leap day is the last day of a year and the months before it
/// have the same length in every year.
pub(in crate::access_log::sinks) fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_OF_400_YEARS: u64 = 146_097;
    const DAYS_FROM_0000_03_01: u64 = 719_468;

    let days = days + DAYS_FROM_0000_03_01;
    let (era, day_of_era) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
    let leap_days = day_of_era / 1_460 + day_of_era / 146_096 - day_of_era / 36_524;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// Appends the last `N` digits of a number, padded with zeros.
pub(in crate::access_log::sinks) fn push_digits<const N: usize>(
    out: &mut Vec<u8>,
    mut number: u64,
) {
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        *digit += (number % 10) as u8;
        number /= 10;
    }
    out.extend_from_slice(&digits);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn moments_are_written_by_rfc_3339() {
        let rfc3339 = |micros| {
            let mut out = Vec::new();
            push_rfc3339(&mut out, Timestamp::from_micros(micros));
            String::from_utf8(out).unwrap()
        };
        assert_eq!(rfc3339(0), "\"1970-01-01T00:00:00.000000Z\"");
        assert_eq!(
            rfc3339(951_782_400_000_000),
            "\"2000-02-29T00:00:00.000000Z\""
        );
        assert_eq!(
            rfc3339(1_767_225_599_999_999),
            "\"2025-12-31T23:59:59.999999Z\""
        );
        assert_eq!(
            rfc3339(4_107_542_400_000_000),
            "\"2100-03-01T00:00:00.000000Z\""
        );
    }

    proptest! {
        #[test]
        fn each_day_follows_the_one_before(days in 0_u64..1_000_000) {
            let (year, month, day) = civil(days);
            let (next_year, next_month, next_day) = civil(days + 1);
            let same_month = (next_year, next_month, next_day) == (year, month, day + 1);
            let new_month = (next_year, next_month, next_day) == (year, month + 1, 1);
            let new_year = (next_year, next_month, next_day) == (year + 1, 1, 1);
            let new_year = new_year && (month, day) == (12, 31);
            prop_assert!(same_month || (new_month && day >= 28) || new_year);
        }
    }
}
