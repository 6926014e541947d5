//! The access log.

pub(super) mod access_log;
#[cfg(feature = "axum")]
pub(super) mod axum;
pub(super) mod fields;
pub(super) mod layers;
pub(super) mod log_file;
#[cfg(feature = "metrics")]
pub(super) mod metrics;
pub(super) mod queue;
pub(super) mod sampling;
pub(super) mod secrets;
pub(super) mod server;
pub(super) mod starts;
#[cfg(feature = "test-util")]
pub(super) mod store;
pub(super) mod text;
pub(super) mod traces;
pub(super) mod writer;
