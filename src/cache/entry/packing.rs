//! Compressed entries: the responses that are compressed, and the clients that receive compressed
//! responses.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
        CONTENT_TYPE, ETAG, IF_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE, VARY,
    },
};

/// The compression functions and threshold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packer {
    /// Compresses a body with gzip, if that makes it sufficiently shorter.
    pub(crate) pack: fn(&[u8]) -> Option<Bytes>,
    /// Decompresses a body to exactly this length.
    pub(crate) unpack: fn(&[u8], usize) -> Option<Bytes>,
    /// The minimum size of a body that is compressed.
    pub(crate) min_bytes: u64,
}

/// Fields that describe the exact bytes of a content.
const OF_THE_BYTES: [HeaderName; 6] = [
    CONTENT_ENCODING,
    CONTENT_RANGE,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("repr-digest"),
];

/// Returns `true` if a response with these fields can be compressed: its type is compressible, it
/// has no `no-transform`, no field would become invalid, and the handler does not compress it
/// itself.
pub(crate) fn may_be_packed(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    kind.is_some_and(becomes_shorter)
        && !OF_THE_BYTES.iter().any(|name| headers.contains_key(name))
        && !lists(headers, &CACHE_CONTROL, "no-transform")
        && !lists(headers, &VARY, ACCEPT_ENCODING.as_str())
}

fn becomes_shorter(kind: &str) -> bool {
    const KINDS: [&str; 12] = [
        "application/graphql",
        "application/javascript",
        "application/json",
        "application/jsonl",
        "application/vnd.ms-fontobject",
        "application/wasm",
        "application/x-javascript",
        "application/x-ndjson",
        "application/xml",
        "application/yaml",
        "font/otf",
        "font/ttf",
    ];
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let kind = kind.to_ascii_lowercase();
    KINDS.contains(&&*kind)
        || kind.starts_with("text/")
        || ["+json", "+text", "+xml", "+yaml"]
            .iter()
            .any(|end| kind.ends_with(end))
}

/// Returns `true` if a client receives a compressed body. A request that depends on exact bytes, by
/// a range or a strong comparison, does not.
pub(crate) fn takes_packed(request: &HeaderMap) -> bool {
    let goes_by_bytes = [RANGE, IF_RANGE, IF_MATCH, IF_UNMODIFIED_SINCE];
    accepts_gzip(request)
        && !goes_by_bytes.iter().any(|name| request.contains_key(name))
        && !lists(request, &CACHE_CONTROL, "no-transform")
}

/// Returns `true` if a client prefers gzip over no coding (RFC 9110 section 12.5.3). A request
/// without `Accept-Encoding` does not.
fn accepts_gzip(request: &HeaderMap) -> bool {
    let (mut gzip, mut any, mut identity) = (None, None, None);
    for member in members(request, &ACCEPT_ENCODING) {
        let (coding, weight) = member.split_once(';').unwrap_or((member, ""));
        let place = match coding.trim() {
            name if name.eq_ignore_ascii_case("gzip") => &mut gzip,
            name if name.eq_ignore_ascii_case("x-gzip") => &mut gzip,
            name if name.eq_ignore_ascii_case("identity") => &mut identity,
            "*" => &mut any,
            _ => continue,
        };
        *place = Some(thousandths(weight.trim()));
    }
    let gzip = gzip.or(any).unwrap_or(0);
    gzip > 0 && gzip >= identity.unwrap_or(0)
}

/// Parses `q=` in thousandths. An invalid weight is zero.
fn thousandths(weight: &str) -> u16 {
    if weight.is_empty() {
        return 1_000;
    }
    let value = weight.strip_prefix("q=").or(weight.strip_prefix("Q="));
    let value = value.map(str::trim).unwrap_or_default();
    let (whole, part) = value.split_once('.').unwrap_or((value, ""));
    let digits = part.len() <= 3 && part.bytes().all(|byte| byte.is_ascii_digit());
    match (whole, digits) {
        ("1", true) if part.bytes().all(|byte| byte == b'0') => 1_000,
        ("0", true) => format!("{part:0<3}").parse().unwrap_or(0),
        _ => 0,
    }
}

/// Adds `Vary: Accept-Encoding`.
pub(crate) fn vary_by_coding(headers: &mut HeaderMap) {
    if !lists(headers, &VARY, ACCEPT_ENCODING.as_str()) {
        headers.append(VARY, HeaderValue::from_name(ACCEPT_ENCODING));
    }
}

/// Sets the fields of a compressed body of this length. A strong entity tag becomes weak, since it
/// no longer identifies the exact bytes.
pub(crate) fn dress(headers: &mut HeaderMap, len: usize) {
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(len));
    let strong = headers
        .get(ETAG)
        .filter(|tag| tag.as_bytes().starts_with(b"\""));
    let weak = strong.map(|tag| [b"W/", tag.as_bytes()].concat());
    if let Some(Ok(weak)) = weak.map(HeaderValue::try_from) {
        headers.insert(ETAG, weak);
    }
}

fn lists(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    members(headers, name).any(|member| member.eq_ignore_ascii_case(wanted))
}

fn members<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).iter();
    let lines = lines.filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn a_client_that_would_rather_have_gzip_gets_it() {
        let takes = |value| takes_packed(&headers(&[("accept-encoding", value)]));
        for value in [
            "gzip",
            "br, GZIP;q=0.1",
            "*",
            "x-gzip; q=1.000",
            "gzip;q=0.5, identity;q=0.5",
        ] {
            assert!(takes(value), "{value}");
        }
        for value in [
            "",
            "br",
            "gzip;q=0",
            "*;q=0",
            "*, gzip;q=0.000",
            "gzip;q=0.4, identity;q=0.5",
            "gzip;q=2",
            "gzip;q=0.0005",
            "gzip;level=9",
        ] {
            assert!(!takes(value), "{value}");
        }
        assert!(!takes_packed(&HeaderMap::new()));
    }

    #[test]
    fn a_client_that_goes_by_the_very_bytes_gets_them() {
        for field in [
            ("range", "bytes=0-1"),
            ("if-range", "\"a\""),
            ("if-match", "\"a\""),
            ("if-unmodified-since", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("cache-control", "max-age=1, No-Transform"),
        ] {
            assert!(!takes_packed(&headers(&[
                ("accept-encoding", "gzip"),
                field
            ])));
        }
    }

    #[test]
    fn incompressible_or_immutable_response_is_unchanged() {
        for kind in [
            "text/html; charset=utf-8",
            "Application/JSON",
            "image/svg+xml",
        ] {
            assert!(may_be_packed(&headers(&[("content-type", kind)])), "{kind}");
        }
        for kind in ["image/png", "application/octet-stream", "textual", ""] {
            assert!(
                !may_be_packed(&headers(&[("content-type", kind)])),
                "{kind}"
            );
        }
        assert!(!may_be_packed(&HeaderMap::new()));
        for field in [
            ("content-encoding", "identity"),
            ("content-digest", "sha-256=:AA==:"),
            ("cache-control", "no-transform"),
            ("vary", "accept, Accept-Encoding"),
        ] {
            let fields = headers(&[("content-type", "text/plain"), field]);
            assert!(!may_be_packed(&fields), "{field:?}");
        }
    }

    #[test]
    fn a_strong_tag_becomes_a_weak_one() {
        let dressed = |tag| {
            let mut headers = headers(&[("etag", tag), ("content-length", "100")]);
            dress(&mut headers, 10);
            assert_eq!(headers[CONTENT_LENGTH], "10");
            headers.remove(ETAG)
        };
        assert_eq!(dressed("\"a\"").unwrap(), "W/\"a\"");
        assert_eq!(dressed("W/\"a\"").unwrap(), "W/\"a\"");
    }

    #[test]
    fn response_that_depends_on_the_coding_has_one_vary() {
        let mut fields = headers(&[("vary", "accept")]);
        vary_by_coding(&mut fields);
        vary_by_coding(&mut fields);
        let all: Vec<_> = fields.get_all(VARY).iter().collect();
        assert_eq!(all, ["accept", "accept-encoding"]);
    }
}
