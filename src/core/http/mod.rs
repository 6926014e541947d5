//! Shared types for HTTP requests and responses.

pub(crate) mod body;
pub(crate) mod client_uri;
#[cfg(feature = "rate-limit")]
mod guarded;
#[cfg(feature = "rate-limit")]
pub(crate) mod meant_status;
#[cfg(any(feature = "api-key", feature = "rate-limit"))]
pub(crate) mod preflight;
pub(crate) mod rejection;
#[cfg(any(feature = "api-key", feature = "rate-limit"))]
pub(crate) mod rejection_target;
pub(crate) mod request_head;
pub(crate) mod request_id;
#[cfg(feature = "access-log")]
mod request_name;
pub(crate) mod responder;
