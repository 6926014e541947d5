//! Encryption of cached responses in front of any store.

mod seal;
mod store;

pub use self::seal::EncryptionKey;
pub use self::store::{EncryptedStore, EncryptedStoreBuilder};
