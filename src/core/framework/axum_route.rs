//! The route of a request: axum's `MatchedPath`.

use axum::extract::MatchedPath;
use http::Extensions;

/// Returns the route that axum matched, such as `/users/{id}`.
///
/// Returns `None` in a layer around the entire `Router`, because such a layer runs before a route
/// is matched.
pub(crate) fn matched_path(extensions: &Extensions) -> Option<&str> {
    extensions.get().map(MatchedPath::as_str)
}

#[cfg(test)]
mod tests {
    use axum::{
        Router,
        body::{Body, to_bytes},
        response::IntoResponse,
    };
    use http::Request;
    use tower::{ServiceExt, service_fn};

    use super::*;

    #[tokio::test]
    async fn the_route_is_known_below_the_router_as_it_was_written() {
        let app = Router::new().route_service(
            "/users/{id}",
            service_fn(async |request: Request<Body>| {
                let path = matched_path(request.extensions()).unwrap_or("none");
                Ok(path.to_owned().into_response())
            }),
        );
        let request = Request::get("/users/7").body(Body::empty()).unwrap();
        let response = app.oneshot(request).await.unwrap();
        let body = to_bytes(response.into_body(), 1_024).await.unwrap();
        assert_eq!(body, "/users/{id}");
    }

    #[test]
    fn outside_of_the_router_no_route_is_known() {
        assert_eq!(matched_path(&Extensions::new()), None);
    }
}
