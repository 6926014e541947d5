//! Invalidation: the URLs whose responses an unsafe request may have changed.

use http::{
    HeaderMap, StatusCode, Uri,
    header::{CONTENT_LOCATION, LOCATION},
};

use crate::cache::entry::normal_form;

/// Returns `true` if the response to an unsafe request indicates a possible change.
pub(crate) fn may_have_changed(status: StatusCode) -> bool {
    status.is_success() || status.is_redirection()
}

/// Returns the targets that a response names in `Location` and `Content-Location`, if they have the
/// same origin (RFC 9111 section 4.4).
pub(crate) fn named_targets(authority: &str, path: &str, response: &HeaderMap) -> Vec<Uri> {
    [LOCATION, CONTENT_LOCATION]
        .into_iter()
        .filter_map(|name| response.get(name)?.to_str().ok())
        .filter_map(|reference| resolve(authority, path, reference))
        .collect()
}

/// Resolves a reference against a request's path (RFC 3986 section 5.2), and returns its path and
/// query in their normal form. Returns `None` if it has another origin, has no target, or is
/// invalid.
pub(crate) fn resolve(authority: &str, path: &str, reference: &str) -> Option<Uri> {
    let reference = reference.split('#').next().unwrap_or_default();
    if reference.is_empty() {
        return None;
    }
    if let Some(network) = reference.strip_prefix("//") {
        return same_origin_target(authority, "", &format!("http://{network}").parse().ok()?);
    }
    if has_scheme(reference) {
        let url: Uri = reference.parse().ok()?;
        let scheme = url.scheme_str();
        let scheme = scheme.filter(|scheme| ["http", "https"].contains(scheme))?;
        return same_origin_target(authority, scheme, &url);
    }
    let target = match reference.as_bytes()[0] {
        b'/' => without_dots(reference),
        b'?' => normal_form::percent_encoding(&format!("{path}{reference}")).into_owned(),
        _ => {
            let folder = path.rfind('/').map_or("/", |at| &path[..=at]);
            without_dots(&format!("{folder}{reference}"))
        }
    };
    target.parse().ok()
}

/// Returns `true` if a reference starts with a scheme and an authority. A query can contain a colon
/// too.
fn has_scheme(reference: &str) -> bool {
    let scheme = reference.split_once("://").map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| !scheme.contains(['/', '?']))
}

/// Returns the target of a URL with an authority if its origin is the same. Without a scheme, the
/// default ports of `http` and `https` are ignored.
fn same_origin_target(own: &str, scheme: &str, url: &Uri) -> Option<Uri> {
    let other = url.authority()?.as_str();
    let [own, other] = [own, other].map(|authority| {
        let authority = normal_form::without_default_port(scheme, authority.as_bytes());
        match scheme {
            "" => normal_form::authority(authority),
            _ => authority.into(),
        }
    });
    if !other.eq_ignore_ascii_case(&own) {
        return None;
    }
    let target = url.path_and_query().map_or("/", |target| target.as_str());
    without_dots(target).parse().ok()
}

/// Removes `.` and `..` from the path of a target (RFC 3986 section 5.2.4), also if
/// percent-encoded, and returns the target in its normal form.
fn without_dots(target: &str) -> String {
    let target = normal_form::percent_encoding(target);
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (&*target, None),
    };
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_in_folder = false;
    for segment in path.split('/').skip(1) {
        ends_in_folder = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            segment => kept.push(segment),
        }
    }
    let mut out = String::with_capacity(target.len());
    for segment in kept {
        out.push('/');
        out.push_str(segment);
    }
    if ends_in_folder || out.is_empty() {
        out.push('/');
    }
    if let Some(query) = query {
        out.push('?');
        out.push_str(query);
    }
    out
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn named(path: &str, location: &'static str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, HeaderValue::from_static(location));
        let targets = named_targets("a:1", path, &headers);
        targets
            .first()
            .map(|uri| uri.path_and_query().unwrap().to_string())
    }

    #[test]
    fn references_are_resolved_against_the_target() {
        for (reference, target) in [
            ("/x?y", "/x?y"),
            ("http://A:1/x", "/x"),
            ("//a:1/x", "/x"),
            ("x", "/p/x"),
            ("../x", "/x"),
            ("./", "/p/"),
            ("?y", "/p/q?y"),
            ("x#y", "/p/x"),
            ("/p/../x", "/x"),
            ("http://a:1/p/./x", "/p/x"),
            ("http://a:1", "/"),
            // A colon and slashes do not make it a URL.
            ("?y=http://b/", "/p/q?y=http://b/"),
            ("x?y=http://b/", "/p/x?y=http://b/"),
            ("/x?y=http://b/../", "/x?y=http://b/../"),
            // An unreserved character is the same with and without encoding.
            ("/%78%2fy?%7A", "/x%2Fy?z"),
            ("%2e%2E/x", "/x"),
            ("?%79", "/p/q?y"),
            ("http://a:1/%78", "/x"),
        ] {
            assert_eq!(
                named("/p/q", reference).as_deref(),
                Some(target),
                "{reference}"
            );
        }
    }

    #[test]
    fn a_default_port_may_be_written_or_not() {
        for (own, reference, is_own) in [
            ("a", "http://a:80/x", true),
            ("a:80", "http://A/x", true),
            ("a:443", "https://a/x", true),
            ("a", "//a:80/x", true),
            ("a", "https://a:80/x", false),
            ("a:80", "https://a/x", false),
            ("a", "http://a:8080/x", false),
            ("a:", "http://a/x", true),
            ("a", "http://a:/x", true),
            ("a", "https://a:443/x", true),
            ("a:080", "http://a/x", true),
            ("a:443", "//a/x", true),
            ("a:80", "//a:443/x", true),
            ("a", "//a:8080/x", false),
            ("[::1]:80", "http://[::1]/x", true),
            ("a", "ftp://a/x", false),
        ] {
            let resolved = resolve(own, "/p/q", reference);
            assert_eq!(resolved.is_some(), is_own, "{own} {reference}");
        }
    }

    #[test]
    fn another_origin_is_none_of_ours() {
        for reference in ["http://b:1/x", "//b/x", "http://a:2/x", "http://[/"] {
            assert_eq!(named("/p/q", reference), None, "{reference}");
        }
    }

    #[test]
    fn both_fields_name_a_target() {
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, HeaderValue::from_static("/x"));
        headers.insert(CONTENT_LOCATION, HeaderValue::from_static("/y"));
        assert_eq!(named_targets("a", "/", &headers).len(), 2);
    }

    proptest::proptest! {
        #[test]
        fn no_reference_makes_it_panic(path in "/[a./?]{0,8}", reference in "[a-c./?:#\\[]{0,12}") {
            let _ = resolve("a", &path, &reference);
        }
    }
}
