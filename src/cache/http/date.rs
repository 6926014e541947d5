//! HTTP dates.

use std::time::SystemTime;

use http::HeaderValue;

use crate::core::time::Timestamp;

/// Parses a date in any of the three forms of RFC 9110 section 5.6.7, regardless of case.
pub(crate) fn parse(value: &HeaderValue) -> Option<Timestamp> {
    let text = value.to_str().ok()?;
    let date = match httpdate::parse_http_date(text) {
        Ok(date) => date,
        Err(_) => with_another_weekday(&canonical_case(text)?)?,
    };
    Some(date.into())
}

/// Parses a date with a wrong weekday, which is redundant.
fn with_another_weekday(text: &str) -> Option<SystemTime> {
    let rest = text.get(3..).filter(|rest| rest.starts_with([',', ' ']));
    let Some(rest) = rest else {
        return httpdate::parse_http_date(text).ok();
    };
    ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
        .into_iter()
        .find_map(|day| httpdate::parse_http_date(&format!("{day}{rest}")).ok())
}

/// Formats a date as `IMF-fixdate`.
pub(crate) fn format(at: Timestamp) -> HeaderValue {
    // The format has four digits for the year.
    let last = Timestamp::from_secs(253_402_300_799);
    let text = httpdate::fmt_http_date(SystemTime::from(at.min(last)));
    HeaderValue::try_from(text).expect("a date is plain ASCII")
}

/// Capitalizes each word, and writes `GMT` in upper case, as the grammar requires.
fn canonical_case(text: &str) -> Option<String> {
    if text.len() > 64 {
        return None;
    }
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for letter in text.chars() {
        out.push(if inside {
            letter.to_ascii_lowercase()
        } else {
            letter.to_ascii_uppercase()
        });
        inside = letter.is_ascii_alphabetic();
    }
    let zone = out.len().checked_sub(3)?;
    if out.is_char_boundary(zone) && out[zone..].eq_ignore_ascii_case("gmt") {
        out.replace_range(zone.., "GMT");
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(text: &'static str) -> Option<u64> {
        parse(&HeaderValue::from_static(text)).map(Timestamp::as_secs)
    }

    #[test]
    fn the_three_forms_are_one_moment() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "sUN, 06 nOV 1994 08:49:37 gmt",
            "Mon, 06 Nov 1994 08:49:37 GMT",
            "Mon Nov  6 08:49:37 1994",
        ] {
            assert_eq!(secs(text), Some(784_111_777), "{text}");
        }
    }

    #[test]
    fn invalid_date_is_none() {
        for text in [
            "0",
            "-1",
            "",
            "Sun, 06 Nov 94 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 06 Nov 1994 08:49:37 +0000",
            "Sun 06-Nov-1994 8:49:37 GMT",
        ] {
            assert_eq!(secs(text), None, "{text}");
        }
    }

    #[test]
    fn written_value_reads_back() {
        let at = Timestamp::from_secs(784_111_777);
        assert_eq!(format(at), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(parse(&format(at)), Some(at));
        assert_eq!(
            format(Timestamp::from_micros(u64::MAX)),
            "Fri, 31 Dec 9999 23:59:59 GMT"
        );
    }
}
