//! Redaction of header values that are URLs.

use std::borrow::Cow;

use http::{
    HeaderName, HeaderValue,
    header::{CONTENT_LOCATION, LOCATION, REFERER},
};

use super::redact::{self, REDACTED, Redaction, SHORT_BYTES_MAX, capped, hide_keys};

/// The headers whose value is a URL.
const URL_HEADERS: [HeaderName; 3] = [REFERER, LOCATION, CONTENT_LOCATION];

impl Redaction {
    /// Returns the recorded form of a header value. The path and query of a URL are redacted like
    /// those of a request.
    pub(super) fn header_text<'a>(
        &self,
        name: &HeaderName,
        value: &'a HeaderValue,
    ) -> Cow<'a, str> {
        if value.is_sensitive() || !URL_HEADERS.contains(name) {
            return redact::header_text(value);
        }
        let url = self.url(&String::from_utf8_lossy(value.as_bytes()));
        Cow::Owned(capped(&url, SHORT_BYTES_MAX).into_owned())
    }

    /// Returns a URL without its user information, query values, secret path segments and fragment.
    fn url(&self, url: &str) -> String {
        let (url, fragment) = split(url, '#');
        let (address, query) = split(url, '?');
        let (origin, path) = address.split_at(origin_len(address));
        let mut out = String::with_capacity(url.len());
        match origin.split_once("//").zip(origin.rsplit_once('@')) {
            Some(((scheme, _), (_, host))) => {
                out.push_str(scheme);
                out.push_str("//");
                out.push_str(REDACTED);
                out.push('@');
                out.push_str(host);
            }
            None => out.push_str(&hide_keys(origin)),
        }
        out.push_str(&self.path(path));
        if let Some(query) = query {
            out.push('?');
            self.query(query, |piece| out.push_str(piece));
        }
        if fragment.is_some() {
            out.push('#');
            out.push_str(REDACTED);
        }
        out
    }
}

fn split(text: &str, at: char) -> (&str, Option<&str>) {
    match text.split_once(at) {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    }
}

/// Returns the length of `scheme://authority`, or 0 for a relative reference.
fn origin_len(address: &str) -> usize {
    let authority_from = match address.find("//") {
        Some(0) => 2,
        Some(at) if address[..at].find([':', '/']) == Some(at - 1) => at + 2,
        Some(_) | None => return 0,
    };
    let path_at = address[authority_from..].find('/');
    path_at.map_or(address.len(), |at| authority_from + at)
}

#[cfg(test)]
mod tests {
    use http::header::USER_AGENT;

    use super::*;
    use crate::access_log::record::redact::SecretPath;

    fn recorded(name: &HeaderName, value: &str) -> String {
        let redaction = Redaction {
            query: vec!["page".to_owned()],
            secret_paths: vec![SecretPath::parse("/reset/{token}").unwrap()],
            ..Redaction::default()
        };
        let value = HeaderValue::from_str(value).unwrap();
        redaction.header_text(name, &value).into_owned()
    }

    #[test]
    fn url_in_a_header_is_redacted_like_the_url_of_a_request() {
        for (url, shown) in [
            ("https://acme.test", "https://acme.test"),
            ("https://acme.test/a/b", "https://acme.test/a/b"),
            (
                "https://acme.test/a?page=2&token=s3cret",
                "https://acme.test/a?page=2&token=REDACTED",
            ),
            (
                "https://acme.test/reset/s3cret",
                "https://acme.test/reset/REDACTED",
            ),
            ("//acme.test/reset/s3cret", "//acme.test/reset/REDACTED"),
            ("/reset/s3cret?s3cret", "/reset/REDACTED?REDACTED"),
            ("/cb#access_token=s3cret", "/cb#REDACTED"),
            (
                "https://freya:s3cret@acme.test/",
                "https://REDACTED@acme.test/",
            ),
            ("/a//b", "/a//b"),
            ("", ""),
        ] {
            for name in &URL_HEADERS {
                assert_eq!(recorded(name, url), shown);
            }
        }
    }

    #[test]
    fn other_headers_are_recorded_unchanged() {
        assert_eq!(
            recorded(&USER_AGENT, "bot (+https://acme.test/?a=b)"),
            "bot (+https://acme.test/?a=b)"
        );
    }

    #[test]
    fn long_url_is_truncated() {
        let url = recorded(
            &REFERER,
            &format!("https://acme.test/{}", "a".repeat(9_000)),
        );
        assert!(url.len() < SHORT_BYTES_MAX + 8, "{url}");
    }

    #[test]
    fn sensitive_url_is_redacted_whole() {
        let mut value = HeaderValue::from_static("https://acme.test/");
        value.set_sensitive(true);
        assert_eq!(Redaction::default().header_text(&REFERER, &value), REDACTED);
    }
}
