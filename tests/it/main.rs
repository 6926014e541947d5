//! The behavior of the layers, proved from outside.
#![allow(
    clippy::disallowed_methods,
    reason = "tests spawn tasks and start servers"
)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access_log;
mod api_key;
mod cache;
mod core;
mod house;
mod rate_limit;
mod stack;
mod store;
mod support;
