//! What a limiter looks at in a request.

use http::{Extensions, HeaderMap, Method, Request, Uri, Version};

/// A request without its body: what partitions, costs and skip rules are chosen by.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a Method,
    /// The target.
    pub uri: &'a Uri,
    /// The version of HTTP.
    pub version: Version,
    /// The header lines.
    pub headers: &'a HeaderMap,
    /// What other layers have left, such as the [`Identity`](crate::Identity).
    pub extensions: &'a Extensions,
}

impl<'a> RequestHead<'a> {
    /// Looks at a request.
    pub fn of<B>(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            version: request.version(),
            headers: request.headers(),
            extensions: request.extensions(),
        }
    }
}
