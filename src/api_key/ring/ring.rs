//! The keys of one service: their format, their peppers and their store.

use std::{fmt, sync::Arc};

use super::state::KeyRingInner;
use crate::core::error::StoreError;

/// The keys of one service: how they look, what they are digested under, and where they are kept.
///
/// A [`KeyManager`](crate::api_key::KeyManager) makes keys of it, and an
/// [`ApiKeyLayer`](crate::api_key::ApiKeyLayer) checks keys against it; what is said here once holds for
/// both. A clone is the same ring.
///
/// ```
/// use portcullis::{api_key::{KeyRing, Pepper}, store::MemoryStore};
///
/// # let secret = [0, 1, 2, 3, 4, 5, 6, 7].repeat(4);
/// let ring = KeyRing::builder("acmepay", MemoryStore::new())
///     .environments(["live", "test"])
///     .pepper(Pepper::new(1, secret)?)
///     .build()?;
/// # let _ = ring;
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct KeyRing {
    pub(crate) shared: Arc<KeyRingInner>,
}

impl KeyRing {
    /// Writes what has come up since the last time and need not be written at each request: which
    /// keys were used, when and how often, if uses are counted, and digests under the current
    /// pepper of keys that had a former one.
    ///
    /// Call it when the service shuts down. Uses that were not told by then are lost, and nothing
    /// else.
    ///
    /// # Errors
    ///
    /// If the store fails. What it certainly has not kept is told the next time.
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
