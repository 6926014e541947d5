//! Keys that another system issued.

#[cfg(feature = "argon2")]
pub(super) mod argon2;
#[cfg(not(feature = "argon2"))]
#[path = "no_argon2.rs"]
pub(super) mod argon2;
pub(super) mod hash_pool;
pub(super) mod imported;

pub use self::imported::{ImportedHash, ImportedKey, ImportedKeys};
pub use super::key::digest::ImportedAlgorithm;
