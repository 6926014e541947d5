//! Options of a Redis store.

pub(super) mod address;
mod authentication;
pub(super) mod config;
pub(super) mod credentials;
pub(super) mod login;
pub(super) mod server_check;
pub(super) mod servers;
#[cfg(feature = "redis-tls")]
pub(super) mod tls;
