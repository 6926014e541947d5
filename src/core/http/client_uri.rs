//! The original URI of a request whose URI is rewritten.

use http::{Extensions, Uri};

use crate::core::framework;

/// A request extension that contains the URI that the client sent. It is needed if a layer rewrites
/// the URI of the request.
///
/// The cache derives its keys from the client's URI, purges by that URI, and resolves `Location`
/// against it. The cache reads this extension if it is present. Otherwise, the cache reads axum's
/// `OriginalUri`, which an axum `Router` inserts (feature `axum`). If both are missing, the cache
/// uses the URI of the request.
///
/// A layer outside the cache that rewrites URIs must insert this extension first, unless the layer
/// is inside an axum `Router`. Otherwise, the cache uses the rewritten URI. Different URIs that are
/// rewritten to the same URI then share a cache entry, and purges and invalidation by the client's
/// URI do not affect that entry.
///
/// ```
/// use http::{Request, Uri};
/// use portcullis::ClientUri;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// /// Removes the tenant from the start of the path.
/// fn strip_tenant(mut request: Request<()>) -> Request<()> {
///     let sent = request.uri().clone();
///     let path = sent.path().trim_start_matches("/acme");
///     *request.uri_mut() = path.parse().unwrap();
///     request.extensions_mut().insert(ClientUri(sent));
///     request
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let service = ServiceBuilder::new()
///     .map_request(strip_tenant)
///     // .layer(cache)
///     .service(service_fn(async |request: Request<()>| {
///         let sent = request.extensions().get::<ClientUri>().unwrap();
///         Ok::<_, std::convert::Infallible>(format!("{} as {}", sent.0, request.uri()))
///     }));
/// let request = Request::get("/acme/orders").body(()).unwrap();
/// assert_eq!(service.oneshot(request).await.unwrap(), "/acme/orders as /orders");
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientUri(pub Uri);

impl ClientUri {
    /// Returns the URI that the client sent, if the request extensions contain it.
    #[inline]
    #[cfg_attr(
        not(feature = "cache"),
        allow(dead_code, reason = "the cache alone reads it")
    )]
    pub(crate) fn of(extensions: &Extensions) -> Option<&Uri> {
        let inserted = extensions.get().map(|Self(uri)| uri);
        inserted.or_else(|| framework::original_uri(extensions))
    }

    /// Changes the URI in all request extensions that contain it.
    #[cfg_attr(
        not(feature = "api-key"),
        allow(dead_code, reason = "a key in the query alone is removed")
    )]
    pub(crate) fn change(extensions: &mut Extensions, change: impl Fn(&mut Uri)) {
        if let Some(Self(uri)) = extensions.get_mut() {
            change(uri);
        }
        if let Some(uri) = framework::original_uri_mut(extensions) {
            change(uri);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn change_reaches_the_inserted_uri() {
        let mut extensions = Extensions::new();
        ClientUri::change(&mut extensions, |_| unreachable!("no URI is known"));
        assert_eq!(ClientUri::of(&extensions), None);
        extensions.insert(ClientUri(Uri::from_static("/a")));
        ClientUri::change(&mut extensions, |uri| *uri = Uri::from_static("/b"));
        assert_eq!(ClientUri::of(&extensions), Some(&Uri::from_static("/b")));
    }
}
