//! What a change makes untrue.

use http::{
    HeaderMap, StatusCode, Uri,
    header::{CONTENT_LOCATION, LOCATION},
};

/// Returns whether an answer to an unsafe request says that something may have changed.
pub(super) fn may_have_changed(status: StatusCode) -> bool {
    status.is_success() || status.is_redirection()
}

/// Returns the targets that an answer names beside the request's own: those of `Location` and
/// `Content-Location`, where they are of the same origin (RFC 9111 section 4.4).
pub(super) fn named_targets(authority: &str, path: &str, answer: &HeaderMap) -> Vec<Uri> {
    [LOCATION, CONTENT_LOCATION]
        .into_iter()
        .filter_map(|name| answer.get(name)?.to_str().ok())
        .filter_map(|reference| resolve(authority, path, reference))
        .collect()
}

/// Resolves a reference against a request's path. `None` if it leads to another origin, or cannot
/// be read.
pub(super) fn resolve(authority: &str, path: &str, reference: &str) -> Option<Uri> {
    let reference = reference.split('#').next().unwrap_or_default();
    let target = if let Some(network) = reference.strip_prefix("//") {
        format!("http://{network}").parse().ok()?
    } else if reference.starts_with('/') || reference.contains("://") {
        reference.parse::<Uri>().ok()?
    } else if reference.starts_with('?') {
        format!("{path}{reference}").parse().ok()?
    } else {
        let folder = path.rfind('/').map_or("/", |at| &path[..=at]);
        without_dots(&format!("{folder}{reference}")).parse().ok()?
    };
    match target.authority() {
        Some(other) if !other.as_str().eq_ignore_ascii_case(authority) => None,
        _ => Some(target),
    }
}

/// Removes `.` and `..` from a path (RFC 3986 section 5.2.4).
fn without_dots(target: &str) -> String {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
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
        ] {
            assert_eq!(
                named("/p/q", reference).as_deref(),
                Some(target),
                "{reference}"
            );
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
