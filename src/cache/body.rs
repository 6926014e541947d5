//! The body of a response from the cache middleware, and the error of that body.

pub use super::fill::{body::CacheBody, relay::InterruptedError};
