//! Conformance suites for custom stores. They check every requirement that the layers have of a
//! store.
//!
//! A suite panics at the first violation, and the message states the violated requirement. A suite
//! runs on any async runtime.
//!
//! ```
//! # #[cfg(all(feature = "memory", feature = "api-key"))]
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! use portcullis::{conformance, store::MemoryStore};
//!
//! conformance::api_key(MemoryStore::new()).await;
//! # }
//! # #[cfg(not(all(feature = "memory", feature = "api-key")))]
//! # fn main() {}
//! ```

#[cfg(feature = "api-key")]
mod api_key;
#[cfg(feature = "cache")]
mod cache;
#[cfg(any(feature = "cache", feature = "rate-limit"))]
mod kit;
#[cfg(feature = "access-log")]
mod log_store;
#[cfg(feature = "rate-limit")]
mod rate_limit;

#[cfg(feature = "api-key")]
pub use self::api_key::api_key;
#[cfg(feature = "cache")]
pub use self::cache::cache;
#[cfg(feature = "access-log")]
pub use self::log_store::log_store;
#[cfg(feature = "rate-limit")]
pub use self::rate_limit::rate_limit;
