//! Format, secret and digest of API keys.

pub(super) mod checksum_tag;
pub(super) mod digest;
pub(super) mod format;
#[cfg(test)]
mod known_answer;
pub(super) mod secret;
pub(super) mod verify;
