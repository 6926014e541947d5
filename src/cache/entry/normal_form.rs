//! Normal forms of URLs (RFC 3986 section 6.2): one spelling per resource.

use std::borrow::Cow;

/// Removes the port if it is empty or the default port of the scheme.
///
/// Returns the authority unchanged if the scheme is neither `http` nor `https`.
#[inline]
pub(crate) fn without_default_port<'a>(scheme: &str, authority: &'a [u8]) -> &'a [u8] {
    let default: &[u8] = match scheme {
        "http" => b"80",
        "https" => b"443",
        _ => return authority,
    };
    match split_port(authority) {
        Some((host, port)) if port.is_empty() || port == default => host,
        Some(_) | None => authority,
    }
}

/// Returns the normal form of an authority, regardless of the scheme: without user information,
/// without a port that is the default of `http` or `https`, and without leading zeros in another
/// port. Case is preserved.
pub(crate) fn authority(authority: &[u8]) -> Cow<'_, [u8]> {
    let at = authority.iter().rposition(|byte| *byte == b'@');
    let authority = &authority[at.map_or(0, |at| at + 1)..];
    match split_port(authority) {
        Some((host, b"" | b"80" | b"443")) => host.into(),
        Some((host, port)) if host.len() + 1 + port.len() < authority.len() => {
            [host, b":", port].concat().into()
        }
        Some(_) | None => authority.into(),
    }
}

/// Returns `true` if an authority without user information is in the form of [`authority`].
#[inline]
pub(super) fn is_authority(own: &[u8]) -> bool {
    !matches!(own, [.., b':' | b'0'..=b'9']) || authority(own).len() == own.len()
}

/// Returns `true` if a text contains a byte. The function compares eight bytes at a time: parts of
/// a URL are too short for wider comparisons.
#[inline]
pub(super) fn has_byte(text: &[u8], wanted: u8) -> bool {
    let Some(last) = text.last_chunk() else {
        return few_have_byte(text, wanted);
    };
    let (words, _) = text.as_chunks();
    let found = |found: bool, word| found | word_has_byte(word, wanted);
    words.iter().fold(word_has_byte(last, wanted), found)
}

/// The same for fewer than eight bytes: the first and the last four form one word.
#[inline]
fn few_have_byte(text: &[u8], wanted: u8) -> bool {
    match (text.first_chunk(), text.last_chunk()) {
        (Some([a, b, c, d]), Some([e, f, g, h])) => {
            word_has_byte(&[*a, *b, *c, *d, *e, *f, *g, *h], wanted)
        }
        (_, _) => text.contains(&wanted),
    }
}

#[inline]
fn word_has_byte(word: &[u8; 8], wanted: u8) -> bool {
    const LOW: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    // Zero where the bytes are equal. A borrow out of a byte requires an equal byte below it.
    let differing = u64::from_ne_bytes(*word) ^ (LOW * u64::from(wanted));
    differing.wrapping_sub(LOW) & !differing & HIGH != 0
}

/// Splits an authority into its host and its port, without leading zeros. Returns `None` if it does
/// not end in a colon and digits.
fn split_port(authority: &[u8]) -> Option<(&[u8], &[u8])> {
    let is_digit = |byte: &&u8| byte.is_ascii_digit();
    let digits = authority.iter().rev().take_while(is_digit).count();
    let (host, port) = authority.split_at(authority.len() - digits);
    let zeros = port.iter().take_while(|digit| **digit == b'0').count();
    // Port 0 is different from an empty port.
    let zeros = zeros.min(port.len().saturating_sub(1));
    Some((host.strip_suffix(b":")?, &port[zeros..]))
}

/// Decodes the characters of a path or query that need no encoding, and writes the hexadecimal
/// digits of all others in upper case (RFC 3986 sections 6.2.2.1 and 6.2.2.2).
///
/// A percent sign without two hexadecimal digits is a literal one and becomes `%25`.
pub(crate) fn percent_encoding(text: &str) -> Cow<'_, str> {
    if is_percent_encoding(text) {
        return text.into();
    }
    let (plain, mut rest) = text.split_at(text.find('%').unwrap_or(text.len()));
    let mut normal = String::with_capacity(text.len());
    normal.push_str(plain);
    while let Some(after) = rest.strip_prefix('%') {
        rest = match encoded(after.as_bytes()) {
            None => {
                normal.push_str("%25");
                after
            }
            Some(byte) => {
                push(&mut normal, byte);
                &after[2..]
            }
        };
        let (plain, next) = rest.split_at(rest.find('%').unwrap_or(rest.len()));
        normal.push_str(plain);
        rest = next;
    }
    normal.into()
}

/// Returns `true` if a text is in the form of [`percent_encoding`].
#[inline]
pub(super) fn is_percent_encoding(text: &str) -> bool {
    !has_byte(text.as_bytes(), b'%') || is_encoded_normally(text)
}

#[cold]
fn is_encoded_normally(text: &str) -> bool {
    text.split('%').skip(1).all(begins_normal)
}

/// Returns `true` if the text after a percent sign is in its normal form.
fn begins_normal(after: &str) -> bool {
    let is_upper = |digits: &[u8]| !digits.iter().any(u8::is_ascii_lowercase);
    let byte = encoded(after.as_bytes());
    byte.is_some_and(|byte| !is_unreserved(byte)) && is_upper(&after.as_bytes()[..2])
}

/// Writes a byte, percent-encoded unless it is unreserved.
fn push(text: &mut String, byte: u8) {
    match is_unreserved(byte) {
        true => text.push(char::from(byte)),
        false => text.push_str(&format!("%{byte:02X}")),
    }
}

/// Decodes the two hexadecimal digits at the start.
fn encoded(text: &[u8]) -> Option<u8> {
    let [high, low, ..] = text else {
        return None;
    };
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    Some((digit(high)? << 4 | digit(low)?) as u8)
}

/// Returns `true` if a character has the same meaning encoded and unencoded (RFC 3986 section 2.3).
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_byte_finds_it_in_each_place_of_a_text_of_any_length() {
        for len in 0..20 {
            let text = vec![b'a'; len];
            assert!(!has_byte(&text, b'%'), "{len}");
            for at in 0..len {
                let mut text = text.clone();
                text[at] = b'%';
                assert!(has_byte(&text, b'%'), "{at} of {len}");
            }
        }
    }

    #[test]
    fn default_port_is_removed_by_scheme() {
        for (scheme, before, after) in [
            ("http", "h:80", "h"),
            ("http", "h:080", "h"),
            ("http", "h:", "h"),
            ("https", "h:443", "h"),
            ("http", "h:443", "h:443"),
            ("https", "h:80", "h:80"),
            ("http", "[::1]:80", "[::1]"),
            ("http", "[::80]", "[::80]"),
            ("http", "h:8080", "h:8080"),
            ("http", "h:0", "h:0"),
            ("http", "h80", "h80"),
            ("http", "80", "80"),
            ("http", "", ""),
            ("http", ":", ""),
            ("", "h:80", "h:80"),
            ("other", "h:", "h:"),
        ] {
            let normal = without_default_port(scheme, before.as_bytes());
            assert_eq!(normal, after.as_bytes(), "{scheme} {before}");
        }
    }

    #[test]
    fn authority_has_one_form_for_every_spelling() {
        for (before, after) in [
            ("h", "h"),
            ("h:", "h"),
            ("h:80", "h"),
            ("h:00443", "h"),
            ("h:08080", "h:8080"),
            ("h:0", "h:0"),
            ("h:00", "h:0"),
            ("a:80@h:8080", "h:8080"),
            ("h:8080", "h:8080"),
            ("[::1]:443", "[::1]"),
            ("", ""),
        ] {
            let normal = authority(before.as_bytes());
            assert_eq!(*normal, *after.as_bytes(), "{before}");
            let is_normal = is_authority(before.as_bytes());
            assert_eq!(is_normal, before == after, "{before}");
        }
    }

    #[test]
    fn only_unreserved_characters_are_decoded() {
        for (before, after) in [
            ("/a", "/a"),
            ("/%61%2D%2e%5F%7e%30%5A", "/a-._~0Z"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%2Fb", "/a%2Fb"),
            ("/%2541", "/%2541"),
            ("/%3f%23%25%20%c3%a9", "/%3F%23%25%20%C3%A9"),
            ("/%", "/%25"),
            ("/%4", "/%254"),
            ("/%zz%6", "/%25zz%256"),
            ("/%%341", "/%2541"),
            ("/%é%41é", "/%25éAé"),
        ] {
            assert_eq!(percent_encoding(before), after, "{before}");
            assert_eq!(is_percent_encoding(before), before == after, "{before}");
        }
    }

    proptest::proptest! {
        #[test]
        fn normal_forms_are_stable(text in "[a%0-9:@é.-]{0,16}") {
            let once = percent_encoding(&text).into_owned();
            proptest::prop_assert_eq!(percent_encoding(&once), once.as_str());
        }

        #[test]
        fn every_spelling_of_a_path_has_one_form(
            bytes in "[ -~]{0,8}",
            spelling in proptest::collection::vec(0..3, 8),
        ) {
            let spelled: String = bytes.bytes().zip(spelling).map(|(byte, how)| match how {
                0 => format!("%{byte:02x}"),
                1 => format!("%{byte:02X}"),
                _ if is_unreserved(byte) => char::from(byte).to_string(),
                _ => format!("%{byte:02X}"),
            }).collect();
            let encoded: String = bytes.bytes().map(|byte| format!("%{byte:02X}")).collect();
            proptest::prop_assert_eq!(percent_encoding(&spelled), percent_encoding(&encoded));
        }

        #[test]
        fn every_spelling_of_a_port_has_one_form(port in 0_u16.., zeros in "0{0,3}") {
            let is_default = [80, 443].contains(&port);
            let expected = if is_default { "h".to_owned() } else { format!("h:{port}") };
            let spelled = format!("h:{zeros}{port}");
            proptest::prop_assert_eq!(&*authority(spelled.as_bytes()), expected.as_bytes());
        }
    }
}
