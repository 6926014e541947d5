//! The head of a request, which is the input of application functions.

use http::{Extensions, HeaderMap, Method, Request, Uri, Version};

/// The head of a request, which is everything except the body.
///
/// Application functions use the head to choose a request's rate-limit partition, cost and
/// policies, and its [`CachePolicy`](crate::cache::CachePolicy).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a Method,
    /// The request target.
    pub uri: &'a Uri,
    /// The HTTP version.
    pub version: Version,
    /// The header fields.
    pub headers: &'a HeaderMap,
    /// The request extensions, such as the [`Identity`](crate::Identity) of the caller.
    pub extensions: &'a Extensions,
}

impl<'a, B> From<&'a Request<B>> for RequestHead<'a> {
    fn from(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            version: request.version(),
            headers: request.headers(),
            extensions: request.extensions(),
        }
    }
}
