//! Requests and responses as all layers read and write them.

pub(crate) mod body;
pub(crate) mod client_uri;
pub(crate) mod rejection;
pub(crate) mod request_head;
pub(crate) mod request_id;
