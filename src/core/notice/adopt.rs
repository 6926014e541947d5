//! Makes lines of an access log the route of notices.

use std::sync::Weak;

use super::route::{Route, Stream, routes};

/// Sends notices to these lines from now on, as long as they exist.
pub(crate) fn adopt(stream: Stream, route: Weak<dyn Route>) {
    let mut routes = routes();
    routes.retain(|(_, route)| route.strong_count() > 0);
    routes.push((stream, route));
}
