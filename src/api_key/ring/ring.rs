//! The key ring: format, peppers and store of a service's keys.

use std::{fmt, sync::Arc};

use super::state::KeyRingInner;
use crate::core::error::StoreError;

/// The keys of a service: their format, peppers and store.
///
/// A [`KeyManager`](crate::api_key::KeyManager) creates keys, and an
/// [`ApiKeyLayer`](crate::api_key::ApiKeyLayer) checks them. Both use the options of the ring.
/// Clones refer to the same ring.
///
/// ```
/// use portcullis::{api_key::{KeyRing, Pepper}, store::MemoryStore};
///
/// let ring = KeyRing::builder("acmepay", MemoryStore::new())
///     .environments(["live", "test"])
///     // For this example. A service calls `Pepper::new` with a stored secret.
///     .pepper(Pepper::random(1))
///     .build()?;
/// # let _ = ring;
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct KeyRing {
    pub(crate) shared: Arc<KeyRingInner>,
}

impl KeyRing {
    /// Writes pending data to the store: the uses of keys, if they are counted, and new digests of
    /// keys whose digest was outdated.
    ///
    /// Call this method when the service shuts down. Otherwise, the uses since the last flush are
    /// lost.
    ///
    /// # Errors
    ///
    /// Returns an error if the store fails. The next flush retries the data that the store
    /// definitely did not store.
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.shared.flush().await
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing")
            .field("format", &self.shared.format)
            .finish_non_exhaustive()
    }
}
