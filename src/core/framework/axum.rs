//! The integration with axum. `ConnectInfo` is the peer, `OriginalUri` is the URI that the client
//! sent, and `Identity` is an extractor.

use std::{convert::Infallible, net::SocketAddr};

use axum::{
    body::Body,
    extract::{
        ConnectInfo, FromRequestParts, OptionalFromRequestParts, OriginalUri,
        connect_info::MockConnectInfo,
    },
    response::{IntoResponse, Response},
};
use http::{Extensions, HeaderValue, StatusCode, Uri, header::WWW_AUTHENTICATE, request::Parts};

use crate::core::{
    http::{
        rejection::{Dialect, Rejection},
        responder::Responder,
    },
    identity::Identity,
};

/// `true` if axum's `ConnectInfo` is read.
pub(crate) const READS_CONNECT_INFO: bool = true;

/// Returns the address of the peer.
///
/// The address is available if the app is served with
/// `into_make_service_with_connect_info::<SocketAddr>()`. In tests, axum's `MockConnectInfo` also
/// provides the address.
#[inline]
pub(crate) fn peer_addr(extensions: &Extensions) -> Option<&SocketAddr> {
    let served = extensions.get().map(|ConnectInfo(addr)| addr);
    served.or_else(|| extensions.get().map(|MockConnectInfo(addr)| addr))
}

/// Returns the URI that the outermost `Router` received. Inside `nest`, the request's own URI lacks
/// the prefix.
#[inline]
pub(crate) fn original_uri(extensions: &Extensions) -> Option<&Uri> {
    extensions.get().map(|OriginalUri(uri)| uri)
}

/// Returns a mutable reference to the URI that the outermost `Router` received.
pub(crate) fn original_uri_mut(extensions: &mut Extensions) -> Option<&mut Uri> {
    extensions.get_mut().map(|OriginalUri(uri)| uri)
}

/// Extracts the caller's identity. A request without an identity receives `401`, and the handler
/// does not run.
impl<S: Send + Sync> FromRequestParts<S> for Identity {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Rejection> {
        parts.extensions.get().cloned().ok_or_else(missing_identity)
    }
}

/// Extracts the caller's identity if it is known, for handlers that also serve anonymous callers.
impl<S: Send + Sync> OptionalFromRequestParts<S> for Identity {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get().cloned())
    }
}

/// Responds with `application/problem+json`, as the layers do.
impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        self.into_response::<Body>(Dialect::Http, &Responder::default())
            .map(Body::new)
    }
}

fn missing_identity() -> Rejection {
    // RFC 9110, section 15.5.2: a 401 requires a challenge.
    let challenge = HeaderValue::from_static("Bearer realm=\"api\"");
    Rejection::new(
        StatusCode::UNAUTHORIZED,
        "missing-credentials",
        "Credentials required",
    )
    .header(WWW_AUTHENTICATE, challenge)
}

#[cfg(test)]
mod tests {
    use axum::{Router, routing::get};
    use http::Request;
    use tower::{ServiceExt, service_fn};

    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn request(path: &str) -> Request<Body> {
        Request::get(path).body(Body::empty()).unwrap()
    }

    async fn body(response: Response) -> String {
        let bytes = axum::body::to_bytes(response.into_body(), 1_024).await;
        String::from_utf8(bytes.unwrap().into()).unwrap()
    }

    /// Returns an app that responds with the caller's key id, or `nobody` on the optional route.
    fn who() -> Router {
        Router::new()
            .route("/me", get(async |who: Identity| who.key_id().to_owned()))
            .route(
                "/anyone",
                get(async |who: Option<Identity>| {
                    who.map_or("nobody".into(), |who| who.key_id().to_owned())
                }),
            )
    }

    fn by_alice(path: &str) -> Request<Body> {
        let mut request = request(path);
        let alice = Identity::builder("alice").build();
        request.extensions_mut().insert(alice);
        request
    }

    #[test]
    fn peer_address_is_read_from_connect_info_or_its_mock() {
        let mut extensions = Extensions::new();
        assert_eq!(peer_addr(&extensions), None);
        extensions.insert(MockConnectInfo(addr("198.51.100.1:1")));
        assert_eq!(peer_addr(&extensions), Some(&addr("198.51.100.1:1")));
        extensions.insert(ConnectInfo(addr("203.0.113.9:4711")));
        assert_eq!(peer_addr(&extensions), Some(&addr("203.0.113.9:4711")));
    }

    #[tokio::test]
    async fn original_uri_keeps_the_prefix_of_a_nested_router() {
        let inner = Router::new().route_service(
            "/orders",
            service_fn(async |mut request: Request<Body>| {
                let seen = request.uri().to_string();
                let original = original_uri_mut(request.extensions_mut()).unwrap();
                let sent = std::mem::take(original);
                assert_eq!(original_uri(request.extensions()), Some(&Uri::default()));
                Ok(format!("{sent} as {seen}").into_response())
            }),
        );
        let app = Router::new().nest("/{tenant}", inner);
        let response = app.oneshot(request("/acme/orders?a")).await.unwrap();
        assert_eq!(body(response).await, "/acme/orders?a as /orders?a");
        assert_eq!(original_uri(&Extensions::new()), None);
    }

    #[tokio::test]
    async fn a_handler_learns_who_calls() {
        for path in ["/me", "/anyone"] {
            let response = who().oneshot(by_alice(path)).await.unwrap();
            assert_eq!(body(response).await, "alice");
        }
    }

    #[tokio::test]
    async fn a_caller_who_is_not_known_is_answered_401_with_a_challenge() {
        let response = who().oneshot(request("/me")).await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(response.headers()[WWW_AUTHENTICATE], "Bearer realm=\"api\"");
        assert_eq!(response.headers()["cache-control"], "no-store");
        assert!(body(response).await.contains("missing-credentials"));
    }

    #[tokio::test]
    async fn a_handler_may_serve_callers_who_are_not_known() {
        let response = who().oneshot(request("/anyone")).await.unwrap();
        assert_eq!(body(response).await, "nobody");
    }
}
