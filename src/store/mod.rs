//! Where the layers keep things.

#[cfg(feature = "memory")]
mod memory;

#[cfg(feature = "memory")]
pub use self::memory::{MemoryStore, MemoryStoreBuilder};
