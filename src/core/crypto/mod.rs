//! Hashes and message authentication codes.

pub(crate) mod mac;
