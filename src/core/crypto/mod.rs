//! Hashes and message authentication codes.

pub(crate) mod mac;
#[cfg(feature = "cache")]
mod pair;
