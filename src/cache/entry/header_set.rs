//! Common header values, which are shared instead of copied.

use http::HeaderValue;

/// Returns an equal static value, if the value is a common one.
pub(crate) fn of(value: &HeaderValue) -> Option<HeaderValue> {
    let at = VALUES.binary_search_by(|known| known.as_bytes().cmp(value.as_bytes()));
    at.ok().map(|at| HeaderValue::from_static(VALUES[at]))
}

/// Sorted by bytes, for the binary search.
const VALUES: [&str; 62] = [
    "*",
    "0",
    "1; mode=block",
    "Accept",
    "Accept-Encoding",
    "Accept-Language",
    "DENY",
    "GET",
    "GET, HEAD",
    "Origin",
    "SAMEORIGIN",
    "accept",
    "accept-encoding",
    "accept-language",
    "application/atom+xml",
    "application/javascript",
    "application/json",
    "application/json; charset=utf-8",
    "application/json;charset=UTF-8",
    "application/json;charset=utf-8",
    "application/octet-stream",
    "application/pdf",
    "application/problem+json",
    "application/vnd.api+json",
    "application/xml",
    "br",
    "bytes",
    "deflate",
    "en",
    "font/woff2",
    "gzip",
    "identity",
    "image/gif",
    "image/jpeg",
    "image/png",
    "image/svg+xml",
    "image/webp",
    "max-age=0",
    "max-age=3600",
    "max-age=60",
    "max-age=86400",
    "no-cache",
    "no-referrer",
    "none",
    "nosniff",
    "origin",
    "private",
    "public",
    "public, max-age=300",
    "public, max-age=31536000",
    "public, max-age=31536000, immutable",
    "public, max-age=3600",
    "public, max-age=60",
    "public, max-age=600",
    "public, max-age=86400",
    "same-origin",
    "strict-origin-when-cross-origin",
    "text/css",
    "text/html; charset=utf-8",
    "text/plain; charset=utf-8",
    "true",
    "zstd",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_is_found_and_no_other_one() {
        assert!(VALUES.is_sorted());
        for known in VALUES {
            assert_eq!(of(&HeaderValue::from_static(known)).unwrap(), known);
        }
        for other in ["", "application/jso", "application/json ", "zzz"] {
            assert_eq!(of(&HeaderValue::from_static(other)), None);
        }
    }
}
