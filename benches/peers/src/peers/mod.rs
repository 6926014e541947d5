//! The rows of the peers, one file per peer.

pub mod axum_gcra;
pub mod axum_response_cache;
pub mod cache_floor;
pub mod glued;
pub mod governor;
pub mod hmac;
pub mod http_cache;
pub mod limitador;
pub mod redis_benchmark;
pub mod stores;
pub mod tower_governor;
pub mod tower_http_auth;
pub mod tower_http_cache;
pub mod tower_http_trace;
