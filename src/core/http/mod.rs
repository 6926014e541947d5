//! Requests and responses as all layers read and write them.

pub(crate) mod body;
pub(crate) mod client_uri;
#[cfg(feature = "rate-limit")]
mod guarded;
#[cfg(feature = "rate-limit")]
pub(crate) mod meant_status;
pub(crate) mod rejection;
pub(crate) mod request_head;
pub(crate) mod request_id;
#[cfg(feature = "access-log")]
mod request_name;
