//! No framework: no route is known.

use http::Extensions;

/// Returns nothing: no framework has matched a route.
pub(crate) fn matched_path(_extensions: &Extensions) -> Option<&str> {
    None
}
