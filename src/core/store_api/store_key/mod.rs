//! Store keys. The keys are digests, so no byte of a request reaches a store.

#[cfg(feature = "cache")]
mod cache_keys;
mod digest;
mod keys;
mod long_mac;
mod long_writer;
mod short_writer;

pub use self::digest::{LongStoreKey, StoreKey};
pub use self::keys::{KeySpace, StoreKeys};
pub use self::long_writer::LongKeyWriter;
pub use self::short_writer::ShortKeyWriter;
