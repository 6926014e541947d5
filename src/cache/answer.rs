//! A response made of a stored answer.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{self, AGE, CONTENT_LENGTH, CONTENT_TYPE},
};

use super::{condition, entry::StoredResponse};
use crate::time::Timestamp;

/// Makes a response of a stored answer, as the request wants it: with its body, without it, or
/// not at all where the client has it already.
///
/// `request` is given where the request has a condition.
pub(super) fn respond(
    entry: &StoredResponse,
    request: Option<&HeaderMap>,
    head_only: bool,
    now: Timestamp,
) -> Response<Bytes> {
    let not_modified = entry.status.is_success()
        && request.is_some_and(|request| condition::is_not_modified(request, &entry.headers));
    let mut response = Response::new(match head_only || not_modified {
        true => Bytes::new(),
        false => entry.body.clone(),
    });
    *response.status_mut() = entry.status;
    *response.headers_mut() = entry.headers.clone();
    if not_modified {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        let headers = response.headers_mut();
        for name in [CONTENT_LENGTH, CONTENT_TYPE, header::CONTENT_ENCODING] {
            headers.remove(name);
        }
    }
    let age = HeaderValue::from(entry.freshness.age_secs(now));
    response.headers_mut().insert(AGE, age);
    response
}
