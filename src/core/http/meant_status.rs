//! The effective status of a response.

use http::{HeaderValue, Response, StatusCode, Version};

use super::rejection::{GRPC_STATUS, Meant};

/// Returns the effective status of a response to a request with this HTTP version: the status of
/// the rejection, the status that corresponds to the gRPC status, or the response's own status.
pub(crate) fn meant_status<B>(response: &Response<B>, version: Version) -> StatusCode {
    if let Some(Meant(status)) = response.extensions().get() {
        return *status;
    }
    let grpc = response.headers().get(&GRPC_STATUS);
    match grpc
        .filter(|_| version == Version::HTTP_2)
        .map(HeaderValue::as_bytes)
    {
        Some(b"16") => StatusCode::UNAUTHORIZED,
        Some(b"7") => StatusCode::FORBIDDEN,
        Some(_) | None => response.status(),
    }
}
