//! The route of a request without a framework: none.

use http::Extensions;

/// Returns `None`, because no framework matches routes.
pub(crate) fn matched_path(_extensions: &Extensions) -> Option<&str> {
    None
}
