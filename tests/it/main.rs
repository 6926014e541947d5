//! The behaviour of the layers, proved from outside.
#![allow(
    clippy::disallowed_methods,
    reason = "tests spawn tasks and start servers"
)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access_log;
mod api_key;
mod cache;
mod cache_collapse;
mod cache_leaks;
mod cache_oracle;
mod cache_validation;
mod contract;
mod gate;
mod gateway;
mod house;
mod hyper_example;
mod rate_limit;
mod support;
