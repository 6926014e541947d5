//! The behaviour of the layers, proved from outside.
#![allow(
    clippy::disallowed_methods,
    reason = "tests spawn tasks and start servers"
)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access_log;
mod api_key;
mod cache;
mod contract;
mod gate;
mod gateway;
mod house;
mod hyper_example;
mod rate_limit;
mod rate_limit_fields;
mod rate_limit_regressions;
mod support;
