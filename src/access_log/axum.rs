//! axum extractor for the request's record.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use http::request::Parts;

use super::record::request_log::RequestLog;
use crate::core::framework;

/// Extracts the handle to the request's record and records the matched route. Extraction never
/// fails.
impl<S: Send + Sync> FromRequestParts<S> for RequestLog {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        let log = Self::from_extensions(&parts.extensions);
        if let Some(route) = framework::matched_path(&parts.extensions) {
            log.set_route(route.to_owned());
        }
        Ok(log)
    }
}
