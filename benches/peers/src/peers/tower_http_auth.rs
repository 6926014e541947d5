//! `tower-http`'s bearer checks: one token comparison, without a lookup.

use std::future::{Ready, ready};

use axum::body::Body;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response, StatusCode};
use tower::Layer;
use tower_http::auth::{AsyncAuthorizeRequest, AsyncRequireAuthorizationLayer};
use tower_http::validate_request::ValidateRequestHeaderLayer;

use crate::harness::Case;
use crate::workload::{Requests, drive, origin};

pub fn cases() -> Vec<Case> {
    // The length of the keys in `hmac`.
    let bearer = format!("Bearer {}", "k".repeat(90));
    let value = HeaderValue::try_from(&bearer).expect("letters are a valid header value");
    let requests = Requests::bearing(AUTHORIZATION, [value.clone()]);
    // The deprecated `bearer` makes the same check with a different status.
    let validate = ValidateRequestHeaderLayer::has_header_value("authorization", &bearer)
        .expect("the header's name is valid");
    let authorize = AsyncRequireAuthorizationLayer::new(OneBearer(value));
    vec![
        Case::peer(
            "keys/warm",
            "tower-http-bearer",
            drive(validate.layer(origin()), requests.clone()),
        ),
        Case::peer(
            "keys/warm",
            "tower-http-async",
            drive(authorize.layer(origin()), requests),
        ),
    ]
}

#[derive(Clone)]
struct OneBearer(HeaderValue);

impl AsyncAuthorizeRequest<Body> for OneBearer {
    type RequestBody = Body;
    type ResponseBody = Body;
    type Future = Ready<Result<Request<Body>, Response<Body>>>;

    fn authorize(&mut self, request: Request<Body>) -> Self::Future {
        if request.headers().get(AUTHORIZATION) == Some(&self.0) {
            return ready(Ok(request));
        }
        let mut refusal = Response::new(Body::empty());
        *refusal.status_mut() = StatusCode::UNAUTHORIZED;
        ready(Err(refusal))
    }
}
