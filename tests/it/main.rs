//! The behaviour of the layers, proved from outside.
#![allow(
    clippy::disallowed_methods,
    reason = "tests spawn tasks and start servers"
)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access_log;
#[cfg(feature = "axum")]
mod access_log_axum;
mod access_log_layers;
#[cfg(feature = "metrics")]
mod access_log_metrics;
mod access_log_queue;
mod access_log_sampling;
mod access_log_secrets;
mod access_log_server;
mod api_key;
mod cache;
mod contract;
mod gate;
mod gateway;
mod house;
mod hyper_example;
mod rate_limit;
mod support;
