//! Format, secret and digest of API keys.

pub(super) mod checksum_tag;
pub(super) mod digest;
pub(super) mod format;
pub(super) mod secret;
#[cfg(test)]
mod test_vectors;
pub(super) mod verify;
