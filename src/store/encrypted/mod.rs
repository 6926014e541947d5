//! Encryption of cached responses in any store.

mod seal;
mod store;

pub use self::seal::EncryptionKey;
pub use self::store::{EncryptedStore, EncryptedStoreBuilder};
