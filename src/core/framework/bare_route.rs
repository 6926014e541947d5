//! The absence of a matched route without a framework.

use http::Extensions;

/// Returns `None`, because no framework matches routes.
pub(crate) fn matched_path(_extensions: &Extensions) -> Option<&str> {
    None
}
