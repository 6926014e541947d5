//! Routes notices to an access log.

use std::sync::Weak;

use super::route::{Route, Stream, routes};

/// Sends later notices to this log for as long as the log exists.
pub(crate) fn adopt(stream: Stream, route: Weak<dyn Route>) {
    let mut routes = routes();
    routes.retain(|(_, route)| route.strong_count() > 0);
    routes.push((stream, route));
}
