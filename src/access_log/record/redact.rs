//! Redaction: the parts of a request that a record can contain. All others are omitted.

use std::{borrow::Cow, fmt};

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL, SET_COOKIE},
};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

pub(crate) use super::key_text::{REDACTED, hide_keys, holds_key};
use crate::core::error::ConfigError;

/// The suffix of a truncated text.
const CUT: &str = "…";

/// The maximum length of a text field.
pub(crate) const TEXT_BYTES_MAX: usize = 1_024;

/// The maximum length of a recorded header value or of a name.
pub(crate) const SHORT_BYTES_MAX: usize = 256;

/// The maximum length of a query parameter name. A longer one is probably a value.
const PARAMETER_BYTES_MAX: usize = 64;

/// Headers that contain credentials. They are never recorded, even if the configuration includes
/// them.
const CREDENTIALS: [HeaderName; 10] = [
    AUTHORIZATION,
    PROXY_AUTHORIZATION,
    COOKIE,
    SET_COOKIE,
    SEC_WEBSOCKET_PROTOCOL,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-auth-token"),
    HeaderName::from_static("x-csrf-token"),
    HeaderName::from_static("x-amz-security-token"),
];

/// The recorded headers of a request or response, each with all its values.
pub(super) type Headers = Vec<(HeaderName, HeaderValue)>;

/// The allow lists of the record.
#[derive(Clone, Debug, Default)]
pub(crate) struct Redaction {
    /// Query parameters whose values are recorded.
    pub(crate) query: Vec<String>,
    pub(crate) request_headers: Vec<HeaderName>,
    pub(crate) response_headers: Vec<HeaderName>,
    /// Additional headers that contain credentials, like [`CREDENTIALS`].
    pub(crate) redact_headers: Vec<HeaderName>,
    pub(crate) secret_paths: Vec<SecretPath>,
    pub(crate) users: Users,
    /// `true` if a part of the cache key digest is recorded.
    pub(crate) cache_key: bool,
}

/// The recorded form of the key's owner.
#[derive(Clone, Default)]
pub(crate) enum Users {
    #[default]
    Nothing,
    Id,
    /// A digest that is keyed with this secret.
    Hash(Hmac<Sha256>),
}

impl Users {
    /// Records a digest of the owner, keyed with this secret.
    pub(crate) fn hashed(secret: &[u8]) -> Self {
        Self::Hash(Hmac::new_from_slice(secret).expect("HMAC takes a key of any length"))
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "Nothing",
            Self::Id => "Id",
            Self::Hash(_) => "Hash",
        })
    }
}

/// Returns the first half of an owner's digest as hexadecimal digits.
pub(crate) fn user_hash(keyed: &Hmac<Sha256>, owner: &str) -> String {
    let digest = keyed.clone().chain_update(owner).finalize().into_bytes();
    hex(&digest[..16])
}

/// Returns bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes that are valid in both host names and addresses.
const HOST: [bool; 256] = {
    let mut host = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        host[byte as usize] = byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
        byte += 1;
    }
    host
};

/// Returns the host and port of a well-formed authority.
pub(super) fn host_and_port(authority: &str) -> Option<(&str, Option<u16>)> {
    const HOST_BYTES_MAX: usize = 255;

    // Searches bytes: `char` search is optimized for long texts, and these are short.
    let colon = authority.bytes().rposition(|byte| byte == b':');
    let (host, port) = match colon.map(|at| (&authority[..at], &authority[at + 1..])) {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port.parse().ok()?)),
        Some(_) | None => (authority, None),
    };
    let (host, extra) = match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(host) => (host, b':'),
        None => (host, b'_'),
    };
    let plain = |byte: u8| HOST[usize::from(byte)] || byte == extra;
    let valid = (1..=HOST_BYTES_MAX).contains(&host.len()) && host.bytes().all(plain);
    valid.then_some((host, port))
}

impl Redaction {
    /// Returns an error if a recorded header contains credentials.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let secret =
            |name: &&HeaderName| CREDENTIALS.contains(name) || self.redact_headers.contains(name);
        let asked = [
            ("request_headers", &self.request_headers),
            ("response_headers", &self.response_headers),
        ];
        for (option, names) in asked {
            if let Some(name) = names.iter().find(secret) {
                return Err(
                    ConfigError::new(option, name, "this header carries credentials")
                        .fix("remove it; the record contains the public id of the key"),
                );
            }
        }
        Ok(())
    }

    /// Returns the recorded headers of a request.
    pub(crate) fn request_headers(&self, headers: &HeaderMap) -> Headers {
        allowed(&self.request_headers, headers)
    }

    /// Returns the recorded headers of a response.
    pub(crate) fn response_headers(&self, headers: &HeaderMap) -> Headers {
        allowed(&self.response_headers, headers)
    }

    /// Returns the path with secret segments redacted, truncated to the maximum length.
    pub(crate) fn path<'a>(&self, path: &'a str) -> Cow<'a, str> {
        let hidden = match self.hide_segments(path) {
            Some(hidden) => Cow::Owned(hide_keys(&hidden).into_owned()),
            None => hide_keys(path),
        };
        match hidden {
            Cow::Borrowed(path) => capped(path, TEXT_BYTES_MAX),
            Cow::Owned(path) => Cow::Owned(capped(&path, TEXT_BYTES_MAX).into_owned()),
        }
    }

    /// Returns the path with every segment redacted that a pattern hides, or `None` if no pattern
    /// hides a segment.
    fn hide_segments(&self, path: &str) -> Option<String> {
        let mut secret: Vec<usize> = Vec::new();
        for pattern in self.secret_paths.iter().filter(|own| own.fits(path)) {
            secret.extend(pattern.secret_segments());
        }
        if secret.is_empty() {
            return None;
        }
        let mut out = String::with_capacity(path.len());
        let mut number = 0;
        for (at, part) in path.split('/').enumerate() {
            if at > 0 {
                out.push('/');
            }
            let is_secret = !part.is_empty() && secret.contains(&number);
            number += usize::from(!part.is_empty());
            out.push_str(if is_secret { REDACTED } else { part });
        }
        Some(out)
    }

    /// Passes the redacted query to `show` in pieces. Only values of allowed parameters are
    /// included.
    ///
    /// A parameter name is included only if a value follows the name. A parameter without a value
    /// can be a token, and a Base64 token can end with equals signs.
    pub(crate) fn query(&self, query: &str, mut show: impl FnMut(&str)) {
        let mut shown = 0;
        let mut show = |piece: &str| {
            shown += piece.len();
            show(piece);
            shown <= TEXT_BYTES_MAX
        };
        let mut rest = Some(query);
        let mut room = true;
        while let Some(query) = rest {
            let (parameter, behind) = split_at_byte(query, b'&');
            if !room || !self.parameter(parameter, &mut show) {
                show(CUT);
                return;
            }
            rest = behind;
            room = rest.is_none() || show("&");
        }
    }

    /// Passes a parameter to `show` and returns `true` if there is space for another one.
    fn parameter(&self, parameter: &str, mut show: impl FnMut(&str) -> bool) -> bool {
        let (name, value) = split_at_byte(parameter, b'=');
        let value = value.unwrap_or_default();
        if self.query.iter().any(|allowed| allowed == name) {
            return show(&capped(&hide_keys(parameter), SHORT_BYTES_MAX));
        }
        if value.bytes().any(|byte| byte != b'=') && name.len() <= PARAMETER_BYTES_MAX {
            show(&hide_keys(name));
            show("=");
        }
        show(REDACTED)
    }
}

/// Splits text at the first occurrence of an ASCII byte. Returns `None` for the second part if
/// there is none.
fn split_at_byte(text: &str, byte: u8) -> (&str, Option<&str>) {
    match text.bytes().position(|own| own == byte) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

/// A path pattern with secret segments: `/reset/{token}`.
#[derive(Clone, Debug)]
pub(crate) struct SecretPath {
    segments: Vec<Segment>,
}

#[derive(Clone, Debug)]
enum Segment {
    Plain(String),
    Secret,
}

impl Segment {
    /// Returns `true` if the segment is literal and contains a character that no path has
    /// unescaped.
    fn matches_no_path(&self) -> bool {
        match self {
            Self::Plain(text) => text.contains(['{', '}', '?', '#']) || text == "*",
            Self::Secret => false,
        }
    }
}

impl SecretPath {
    /// Parses a pattern. Segments in braces are secret; all others are literal.
    pub(crate) fn parse(pattern: &str) -> Result<Self, ConfigError> {
        let segment = |text: &str| {
            let inner = text
                .strip_prefix('{')
                .and_then(|text| text.strip_suffix('}'));
            match inner.filter(|inner| !inner.contains(['{', '}'])) {
                Some(_) => Segment::Secret,
                None => Segment::Plain(text.to_owned()),
            }
        };
        let segments: Vec<_> = segments(pattern).map(segment).collect();
        if !segments
            .iter()
            .any(|segment| matches!(segment, Segment::Secret))
        {
            let problem = "no segment is in braces, so nothing would be redacted";
            return Err(ConfigError::new("redact_path", pattern, problem)
                .fix("put the secret segment in braces, such as `/reset/{token}`"));
        }
        if let Some(Segment::Plain(text)) =
            segments.iter().find(|segment| segment.matches_no_path())
        {
            let problem = format!("the segment `{text}` is literal, and no path contains it");
            return Err(ConfigError::new("redact_path", pattern, problem).fix(
                "put whole segments in braces, such as `/reset/{token}`, without a query or wildcards",
            ));
        }
        Ok(Self { segments })
    }

    /// Returns `true` if the path matches as far as both have segments. A shorter path has no
    /// secret segment beyond its end.
    ///
    /// Duplicate slashes and percent escapes are normalized, so that they cannot bypass a pattern.
    fn fits(&self, path: &str) -> bool {
        self.segments
            .iter()
            .zip(segments(path))
            .all(|(own, part)| match own {
                Segment::Secret => true,
                Segment::Plain(text) => unescaped_eq(part, text),
            })
    }

    /// Returns the indexes of the secret segments.
    fn secret_segments(&self) -> impl Iterator<Item = usize> {
        let numbered = self.segments.iter().enumerate();
        numbered.filter_map(|(number, own)| match own {
            Segment::Secret => Some(number),
            Segment::Plain(_) => None,
        })
    }
}

/// Returns text, truncated and marked if it is longer than `max_bytes`.
#[inline]
pub(crate) fn capped(text: &str, max_bytes: usize) -> Cow<'_, str> {
    match text.len() <= max_bytes {
        true => Cow::Borrowed(text),
        false => cut(text, max_bytes),
    }
}

#[cold]
fn cut(text: &str, max_bytes: usize) -> Cow<'_, str> {
    let boundary = (0..=max_bytes).rev().find(|at| text.is_char_boundary(*at));
    let mut cut = text[..boundary.unwrap_or(0)].to_owned();
    cut.push_str(CUT);
    Cow::Owned(cut)
}

/// Returns the recorded form of a header value.
pub(super) fn header_text(value: &HeaderValue) -> Cow<'_, str> {
    if value.is_sensitive() {
        return Cow::Borrowed(REDACTED);
    }
    let bytes = value.as_bytes();
    let bounded = &bytes[..bytes.len().min(SHORT_BYTES_MAX + 1)];
    match String::from_utf8_lossy(bounded) {
        Cow::Borrowed(text) => shown_short(text),
        Cow::Owned(text) => Cow::Owned(shown_short(&text).into_owned()),
    }
}

/// Returns the recorded form of short text, without the secrets of API keys.
fn shown_short(text: &str) -> Cow<'_, str> {
    match hide_keys(text) {
        Cow::Borrowed(text) => capped(text, SHORT_BYTES_MAX),
        Cow::Owned(text) => Cow::Owned(capped(&text, SHORT_BYTES_MAX).into_owned()),
    }
}

fn allowed(names: &[HeaderName], headers: &HeaderMap) -> Headers {
    names
        .iter()
        .flat_map(|name| headers.get_all(name).iter().map(move |value| (name, value)))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}

/// Returns `true` if the percent-decoded segment equals this text.
fn unescaped_eq(segment: &str, text: &str) -> bool {
    let mut bytes = segment.bytes();
    let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
    let mut unescaped = Vec::with_capacity(segment.len());
    while let Some(byte) = bytes.next() {
        let mut ahead = bytes.clone();
        match (byte, digit(ahead.next()), digit(ahead.next())) {
            (b'%', Some(high), Some(low)) => {
                unescaped.push((high << 4 | low) as u8);
                bytes = ahead;
            }
            (plain, ..) => unescaped.push(plain),
        }
    }
    unescaped == text.as_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn query(allowed: &[&str], query: &str) -> String {
        let redaction = Redaction {
            query: allowed.iter().map(ToString::to_string).collect(),
            ..Redaction::default()
        };
        let mut out = String::new();
        redaction.query(query, |piece| out.push_str(piece));
        out
    }

    fn path(pattern: &str, path: &str) -> String {
        let redaction = Redaction {
            secret_paths: vec![SecretPath::parse(pattern).unwrap()],
            ..Redaction::default()
        };
        redaction.path(path).into_owned()
    }

    #[test]
    fn a_host_is_written_as_it_was_asked_for_or_not_at_all() {
        for (authority, host, port) in [
            ("acme.test", "acme.test", None),
            ("acme_1.test:8080", "acme_1.test", Some(8080)),
            ("127.0.0.1:80", "127.0.0.1", Some(80)),
            ("[2001:db8::1]", "2001:db8::1", None),
            ("[2001:db8::1]:443", "2001:db8::1", Some(443)),
        ] {
            assert_eq!(host_and_port(authority), Some((host, port)));
        }
        for bad in [
            "",
            ":80",
            "a b",
            "a:b",
            "a:99999",
            "::1",
            "a\"b",
            "user@host",
            "grüße",
            "[",
            "a/b",
        ] {
            assert_eq!(host_and_port(bad), None, "{bad}");
        }
        assert_eq!(host_and_port(&"a".repeat(256)), None);
    }

    #[test]
    fn an_owner_is_hashed_under_a_secret_that_no_debugging_shows() {
        let hash = |secret: &[u8], owner| match Users::hashed(secret) {
            Users::Hash(keyed) => user_hash(&keyed, owner),
            Users::Nothing | Users::Id => unreachable!(),
        };
        let freya = hash(b"secret", "freya");
        assert_eq!(freya.len(), 32);
        assert_eq!(freya, hash(b"secret", "freya"));
        assert_ne!(freya, hash(b"another", "freya"));
        assert_ne!(freya, hash(b"secret", "loki"));
        assert_eq!(format!("{:?}", Users::hashed(b"secret")), "Hash");
    }

    #[test]
    fn redacts_query_values_and_preserves_names() {
        assert_eq!(
            query(&["page"], "token=abc&page=2&q=a%20b"),
            "token=REDACTED&page=2&q=REDACTED"
        );
    }

    #[test]
    fn a_name_is_allowed_as_it_is_spelled() {
        assert_eq!(
            query(&["page"], "Page=2&pages=3"),
            "Page=REDACTED&pages=REDACTED"
        );
    }

    #[test]
    fn query_name_without_a_value_is_redacted() {
        for bare in ["sk_live_1234", "c2VjcmV0=", "c2VjcmV0cw==", &"n".repeat(65)] {
            assert_eq!(query(&[], bare), REDACTED);
        }
        assert_eq!(query(&[], &format!("{}=v", "n".repeat(65))), REDACTED);
    }

    #[test]
    fn a_long_query_is_cut() {
        let cut = query(&[], &"a=b&".repeat(10_000));
        assert!(cut.len() < TEXT_BYTES_MAX + 32 && cut.ends_with(CUT));
    }

    #[test]
    fn redacts_only_secret_path_segments() {
        assert_eq!(
            path("/reset/{token}", "/reset/s3cret/done"),
            "/reset/REDACTED/done"
        );
        assert_eq!(path("/reset/{token}", "/resets/s3cret"), "/resets/s3cret");
        assert_eq!(path("/reset/{token}", "/reset"), "/reset");
    }

    #[test]
    fn no_spelling_of_a_secret_path_slips_through() {
        for spelled in ["//reset/s3cret", "/reset//s3cret", "/%72eset/s3cret"] {
            assert!(
                !path("/reset/{token}", spelled).contains("s3cret"),
                "{spelled}"
            );
        }
    }

    #[test]
    fn a_pattern_that_hides_nothing_is_refused() {
        assert_eq!(
            SecretPath::parse("/reset").unwrap_err().option(),
            "redact_path"
        );
    }

    #[test]
    fn rejects_recording_of_credential_headers() {
        for name in CREDENTIALS {
            let redaction = Redaction {
                request_headers: vec![name.clone()],
                ..Redaction::default()
            };
            assert_eq!(redaction.check().unwrap_err().value(), name.as_str());
        }
        let redaction = Redaction {
            response_headers: vec![HeaderName::from_static("x-session")],
            redact_headers: vec![HeaderName::from_static("x-session")],
            ..Redaction::default()
        };
        assert_eq!(redaction.check().unwrap_err().option(), "response_headers");
    }

    #[test]
    fn a_value_that_is_marked_sensitive_is_not_written() {
        let mut value = HeaderValue::from_static("s3cret");
        assert_eq!(header_text(&value), "s3cret");
        value.set_sensitive(true);
        assert_eq!(header_text(&value), REDACTED);
    }

    proptest! {
        #[test]
        fn no_value_is_ever_in_a_query(
            parameters in prop::collection::vec(("[a-z]{0,9}", "[A-Z0-9=]{0,9}"), 0..9)
        ) {
            let parameter = |(name, value): &(String, String)| format!("{name}={value}");
            let text: Vec<_> = parameters.iter().map(parameter).collect();
            let hidden = query(&[], &text.join("&")).replace(REDACTED, "");
            prop_assert!(!hidden.contains(|char: char| char.is_ascii_uppercase()));
        }

        #[test]
        fn a_cut_text_is_a_bounded_beginning(text in any::<String>(), max in 0_usize..20) {
            let cut = capped(&text, max);
            prop_assert!(cut.len() <= max + CUT.len());
            prop_assert!(text.starts_with(cut.trim_end_matches(CUT)));
        }

        #[test]
        fn any_header_value_can_be_written(bytes in prop::collection::vec(32_u8..=255, 0..600)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                prop_assert!(header_text(&value).chars().count() <= SHORT_BYTES_MAX + 1);
            }
        }
    }
}
