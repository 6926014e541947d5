//! The behaviour of the layers, proved from outside.
#![allow(
    clippy::disallowed_methods,
    reason = "tests spawn tasks and start servers"
)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access_log;
mod api_key;
#[cfg(feature = "test-util")]
mod api_key_conformance;
mod api_key_manager;
mod api_key_pipeline;
mod api_key_threats;
mod cache;
mod contract;
mod gate;
mod gateway;
mod house;
mod hyper_example;
mod keys_example;
mod rate_limit;
mod support;
