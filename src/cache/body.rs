//! The body of a response that passed the cache, and its error.

pub use super::fill::{body::CacheBody, relay::InterruptedError};
