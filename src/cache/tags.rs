//! Tags: names by which an application purges many entries at once.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};

/// The maximum number of tags of a response. Further tags are ignored.
pub(super) const TAGS_MAX: usize = 64;
/// The maximum length of a tag. A longer one is ignored.
const TAG_BYTES_MAX: usize = 1_024;

/// The tags of a response. A handler inserts this value into the extensions of its response.
///
/// A handler can also list tags in `Surrogate-Key` (separated by spaces) or `Cache-Tag` (separated
/// by commas). The cache removes these fields from the response.
///
/// ```
/// use http::Response;
/// use portcullis::cache::CacheTags;
///
/// let mut response = Response::new(());
/// response.extensions_mut().insert(CacheTags::new(["article:7", "author:3"]));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheTags {
    tags: Arc<[String]>,
}

impl CacheTags {
    /// Creates the tags of a response. Tags beyond the first 64 and tags longer than 1024 bytes are
    /// ignored.
    pub fn new<I>(tags: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Self {
            tags: tags.into_iter().map(Into::into).collect(),
        }
    }
}

/// Calls `take` with each tag of a response.
pub(super) fn each(
    headers: &HeaderMap,
    fields: &[HeaderName],
    extension: Option<&CacheTags>,
    mut take: impl FnMut(&[u8]),
) {
    let named = extension.map(|tags| &*tags.tags).unwrap_or_default();
    let listed = fields
        .iter()
        .flat_map(|name| headers.get_all(name))
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b',' || *byte == b' '));
    named
        .iter()
        .map(String::as_bytes)
        .chain(listed)
        .filter(|tag| !tag.is_empty() && tag.len() <= TAG_BYTES_MAX)
        .take(TAGS_MAX)
        .for_each(&mut take);
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const FIELD: HeaderName = HeaderName::from_static("cache-tag");

    fn tags(line: &str, extension: Option<&CacheTags>) -> Vec<String> {
        let mut headers = HeaderMap::new();
        headers.insert(FIELD, HeaderValue::from_str(line).unwrap());
        let mut found = Vec::new();
        each(&headers, &[FIELD], extension, |tag| {
            found.push(String::from_utf8(tag.to_vec()).unwrap());
        });
        found
    }

    #[test]
    fn tags_are_listed_by_commas_or_spaces() {
        assert_eq!(tags("a, b c,,d", None), ["a", "b", "c", "d"]);
    }

    #[test]
    fn extension_tags_precede_header_tags() {
        assert_eq!(tags("b", Some(&CacheTags::new(["a a"]))), ["a a", "b"]);
    }

    #[test]
    fn ignores_oversized_and_excess_tags() {
        assert_eq!(tags(&"x".repeat(TAG_BYTES_MAX + 1), None).len(), 0);
        assert_eq!(tags(&"x ".repeat(TAGS_MAX + 1), None).len(), TAGS_MAX);
    }
}
