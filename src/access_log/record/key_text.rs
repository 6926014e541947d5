//! Redaction of API keys in recorded texts.

use std::borrow::Cow;

/// The replacement of a redacted secret.
pub(crate) const REDACTED: &str = "REDACTED";

/// The number of characters of a key id, between underscores.
const ID_LEN: usize = 16;
/// The minimum length of a redacted secret: a fragment with fewer of the 43 characters is useless
/// to an attacker.
const SECRET_LEN_MIN: usize = 16;
/// The minimum length of a text that can contain a secret.
const TEXT_LEN_MIN: usize = ID_LEN + SECRET_LEN_MIN + 2;

/// Returns the text with the secrets of all API keys redacted, at any position and with any
/// percent-encoding. The public part of a key is preserved.
///
/// Keys are recognized by their form alone, `…_1id_secret`, so that truncated keys and keys of
/// other services are redacted too.
#[inline]
pub(crate) fn hide_keys(text: &str) -> Cow<'_, str> {
    match text.len() < TEXT_LEN_MIN {
        true => Cow::Borrowed(text),
        false => hide_keys_of_long(text),
    }
}

fn hide_keys_of_long(text: &str) -> Cow<'_, str> {
    let separators = text.bytes().filter(|byte| matches!(byte, b'_' | b'%'));
    if separators.take(2).count() < 2 {
        return Cow::Borrowed(text);
    }
    let mut hidden = String::new();
    let mut shown = 0;
    let mut from = 0;
    while let Some((start, end)) = next_secret(text.as_bytes(), from) {
        hidden.push_str(&text[shown..start]);
        hidden.push_str(REDACTED);
        shown = end;
        from = end;
    }
    if shown == 0 {
        return Cow::Borrowed(text);
    }
    hidden.push_str(&text[shown..]);
    Cow::Owned(hidden)
}

/// Returns `true` if text contains the secret of an API key.
pub(crate) fn holds_key(text: &str) -> bool {
    matches!(hide_keys(text), Cow::Owned(_))
}

/// Returns the range of the next secret.
fn next_secret(text: &[u8], from: usize) -> Option<(usize, usize)> {
    let mut at = from;
    while at < text.len() {
        let (byte, next) = unescaped(text, at);
        if byte == b'_'
            && let Some(start) = behind_id(text, next)
        {
            let (end, len) = behind_base62(text, start, usize::MAX);
            if len >= SECRET_LEN_MIN {
                return Some((start, end));
            }
        }
        at = next;
    }
    None
}

/// Returns the start of the secret after an id and an underscore.
fn behind_id(text: &[u8], start: usize) -> Option<usize> {
    let (version, _) = unescaped_at(text, start)?;
    let (end, len) = behind_base62(text, start, ID_LEN);
    let (separator, next) = unescaped_at(text, end)?;
    let is_id = matches!(version, b'1' | b'2') && len == ID_LEN && separator == b'_';
    is_id.then_some(next)
}

/// Returns the end and the number of letters and digits, at most `max`.
fn behind_base62(text: &[u8], start: usize, max: usize) -> (usize, usize) {
    let (mut at, mut len) = (start, 0);
    while len < max
        && let Some((byte, next)) = unescaped_at(text, at)
        && byte.is_ascii_alphanumeric()
    {
        (at, len) = (next, len + 1);
    }
    (at, len)
}

fn unescaped_at(text: &[u8], at: usize) -> Option<(u8, usize)> {
    (at < text.len()).then(|| unescaped(text, at))
}

/// Returns the character at a position and the position of the next one. Nested escapes are
/// decoded: `%255F` is an underscore.
fn unescaped(text: &[u8], at: usize) -> (u8, usize) {
    let (mut byte, mut next) = (text[at], at + 1);
    while byte == b'%'
        && let Some(escaped) = hex_pair(text, next)
    {
        (byte, next) = (escaped, next + 2);
    }
    (byte, next)
}

fn hex_pair(text: &[u8], at: usize) -> Option<u8> {
    let digit = |at: usize| char::from(*text.get(at)?).to_digit(16);
    u8::try_from(digit(at)? << 4 | digit(at + 1)?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PUBLIC: &str = "acme_live_1AAAAAAAAAAAAAAA_";
    const SECRET: &str = "00000000000000000000000000000000000000000000w2Xzo";

    #[test]
    fn the_secret_of_a_key_is_hidden_wherever_it_stands() {
        let key = format!("{PUBLIC}{SECRET}");
        for (before, behind) in [
            ("", ""),
            ("/admin/keys/", ""),
            ("/admin/keys/", "/rotate"),
            ("/x_1", "?a=b"),
            ("/admin_", "_"),
            ("/key:", ",more"),
            ("/ключ/", "/ключ"),
        ] {
            let shown = hide_keys(&format!("{before}{key}{behind}")).into_owned();
            assert_eq!(shown, format!("{before}{PUBLIC}{REDACTED}{behind}"));
        }
        let twice = hide_keys(&format!("/{key}/{key}")).into_owned();
        assert_eq!(twice, format!("/{PUBLIC}{REDACTED}/{PUBLIC}{REDACTED}"));
    }

    #[test]
    fn no_escaping_of_a_key_shows_its_secret() {
        let key = format!("{PUBLIC}{SECRET}");
        let all: String = key.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let escaped = [
            key.replace('_', "%5F"),
            key.replace('_', "%5f"),
            key.replace('_', "%255F"),
            key.replace('_', "%25255f"),
            key.replacen('0', "%30", 9),
            all.clone(),
            all.replace('%', "%25"),
        ];
        for escaped in escaped {
            let shown = hide_keys(&escaped).into_owned();
            assert!(shown.ends_with(REDACTED), "{shown}");
            assert!(shown.len() < escaped.len() - 40, "{shown}");
        }
    }

    #[test]
    fn keys_that_were_cut_or_mistyped_are_hidden_too() {
        let tagged = PUBLIC.replace("_1A", "_2A");
        for (public, secret) in [
            (PUBLIC, &SECRET[..43]),
            (PUBLIC, &SECRET[..20]),
            (&tagged, SECRET),
            ("live_1AAAAAAAAAAAAAAA_", SECRET),
            ("ACME_LIVE_1AAAAAAAAAAAAAAA_", SECRET),
        ] {
            let shown = hide_keys(&format!("/{public}{secret}")).into_owned();
            assert_eq!(shown, format!("/{public}{REDACTED}"));
        }
        let longer = hide_keys(&format!("/{PUBLIC}{SECRET}abc")).into_owned();
        assert_eq!(longer, format!("/{PUBLIC}{REDACTED}"));
    }

    #[test]
    fn text_without_key_format_is_unchanged() {
        for text in [
            "/",
            "/users/1AAAAAAAAAAAAAAA",
            "/keys/acme_live_1AAAAAAAAAAAAAAA",
            "/keys/acme_live_1AAAAAAAAAAAAAAA_short",
            "/a_long_path_with_many_underscores_and_nothing_to_hide_in_it",
            "/static/app_3f9c1a7b2d4e6f80_1a2b3c4d5e6f7a8b9c0d.js",
            "/%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%",
            "/100%_of_1234567890123456%",
        ] {
            assert!(matches!(hide_keys(text), Cow::Borrowed(_)), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_around_a_key_shows_its_secret(
            before in "[ -~é]{0,40}",
            behind in "([^0-9A-Za-z%][ -~é]{0,40})?",
            secret in "[0-9A-Za-z]{49}",
        ) {
            let text = format!("{before}{PUBLIC}{secret}{behind}");
            let shown = hide_keys(&text).into_owned();
            prop_assert!(!shown.contains(&secret), "{}", shown);
            prop_assert!(shown.ends_with(&behind));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in any::<String>()) {
            let _ = hide_keys(&text);
        }
    }
}
