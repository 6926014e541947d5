//! Answers encrypted on their way into any store.

use super::seal::{EncryptionKey, SealContext, key_id, nonce, open};

use std::{
    fmt,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use crate::{
    cache::{
        CacheStore, PurgeMode,
        backend::{
            CacheKey, Fence, Found, Lease, LeaseToken, Lookup, PurgeTarget, Put, PutOutcome,
            Selection, StoredResponse, Touch,
        },
    },
    core::{
        error::{ConfigError, StoreError},
        notice,
        store_api::{store_future::StoreFuture, store_key::StoreKeys},
    },
};
use bytes::Bytes;

/// A store whose answers another one keeps, and cannot read.
///
/// Status, header fields, times and body are sealed (XChaCha20-Poly1305) for the key and the
/// variant that they stand under. What was changed, cut, brought from another place or sealed
/// under a key that is not known is found as if it were not there: the answer is made again.
///
/// What the inner store sees is what it needs to choose, to purge and to forget: digests of key,
/// variant, partition and tags; the *names* of the fields that an answer varies by; how many bytes
/// it has; for how long it is of use. Whoever can write to it can lose answers, and bring back an
/// earlier one of the same key, which is shown no longer than it was fresh. The secret of the
/// digests is the inner store's [`StoreKeys`].
///
/// ```
/// use portcullis::{
///     cache::CacheLayer,
///     store::{EncryptedStore, EncryptionKey, MemoryStore},
/// };
///
/// // To rotate, give each process the new secret as a former one first, then the other way round.
/// let now = EncryptionKey::new(2, b"thirty-two bytes or more, from a secret manager")?;
/// let before = EncryptionKey::new(1, b"what was encrypted under this can still be read")?;
/// let store = EncryptedStore::builder(MemoryStore::new(), now)
///     .previous_key(before)
///     .build()?;
/// let cache = CacheLayer::new(store);
/// # let _ = cache;
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct EncryptedStore<S> {
    inner: S,
    pub(super) shared: Arc<EncryptedInner>,
}

pub(super) struct EncryptedInner {
    /// The one that encrypts, then those that only decrypt.
    pub(super) keys: Vec<EncryptionKey>,
    unreadable: AtomicBool,
}

impl<S: CacheStore> EncryptedStore<S> {
    /// Begins a store that encrypts under a key.
    pub fn builder(inner: S, key: EncryptionKey) -> EncryptedStoreBuilder<S> {
        EncryptedStoreBuilder {
            inner,
            keys: vec![key],
        }
    }

    /// Returns the store that keeps what is encrypted.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S> fmt::Debug for EncryptedStore<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncryptedStore")
            .field("keys", &self.shared.keys.len())
            .finish_non_exhaustive()
    }
}

/// Builds an [`EncryptedStore`].
#[must_use]
pub struct EncryptedStoreBuilder<S> {
    inner: S,
    pub(super) keys: Vec<EncryptionKey>,
}

impl<S: CacheStore> EncryptedStoreBuilder<S> {
    /// Adds a key under which nothing is encrypted any more, or not yet: what was encrypted under
    /// it can be read. A validation does not renew it, so a former key is of no use any more once
    /// the answers that it encrypted have served their time.
    pub fn previous_key(mut self, key: EncryptionKey) -> Self {
        self.keys.push(key);
        self
    }

    /// Returns the store.
    ///
    /// # Errors
    ///
    /// If two keys have the same id.
    pub fn build(self) -> Result<EncryptedStore<S>, ConfigError> {
        let mut ids: Vec<u16> = self.keys.iter().map(EncryptionKey::id).collect();
        ids.sort_unstable();
        if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            let problem = "two keys of one id cannot be told apart";
            return Err(ConfigError::new("previous_key", twice[0], problem)
                .fix("give each key an id of its own, and never use one again"));
        }
        Ok(EncryptedStore {
            inner: self.inner,
            shared: Arc::new(EncryptedInner {
                keys: self.keys,
                unreadable: AtomicBool::new(false),
            }),
        })
    }
}

impl<S> fmt::Debug for EncryptedStoreBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncryptedStoreBuilder")
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

pub(super) const UNREADABLE: &str = "the store holds an answer that no key of this process opens: it was \
    encrypted under another one, or was changed. It is made again, as all others like it are. \
    While keys are rotated, each process has to know the new one before any encrypts under it";

impl EncryptedInner {
    /// Returns an answer as the inner store is to keep it. `None` if it is too large to be kept.
    fn seal(&self, key: &CacheKey, entry: &StoredResponse) -> Result<Option<Sealed>, StoreError> {
        let Some(head) = entry.encode_head() else {
            return Ok(None);
        };
        let newest = &self.keys[0];
        let variant = entry.variant();
        let body = match entry.sealed_body() {
            // Where only the head is replaced, the body stays what it is.
            Some(body) => body.clone(),
            None => newest.seal(&place(key, variant.as_bytes(), None), entry.body())?,
        };
        let head = newest.seal(&place(key, variant.as_bytes(), Some(&body)), &head)?;
        Ok(Some(Arc::new(entry.seal(head, body))))
    }

    /// Returns whether an answer's body stays where a new head replaces its own. One that was
    /// encrypted under a former key would live on with it.
    fn body_stays(&self, entry: &StoredResponse) -> bool {
        let newest = self.keys[0].id();
        entry
            .sealed_body()
            .is_none_or(|body| key_id(body) == Some(newest))
    }

    fn open(&self, key: &CacheKey, sealed: &StoredResponse) -> Option<StoredResponse> {
        let body = sealed.body();
        let variant = sealed.variant();
        let head = place(key, variant.as_bytes(), Some(body));
        let head = open(&self.keys, &head, sealed.sealed_head()?)?;
        let body = open(&self.keys, &place(key, variant.as_bytes(), None), body)?;
        sealed.open(head, body).ok()
    }

    fn opened(&self, key: &CacheKey, mut lookup: Lookup) -> Lookup {
        if let Found::Entry { entry, .. } = &mut lookup.found {
            match self.open(key, entry) {
                Some(opened) => *entry = Arc::new(opened),
                None => {
                    notice::once(&self.unreadable, || UNREADABLE.to_owned());
                    lookup.found = Found::Nothing;
                }
            }
        }
        lookup
    }
}

pub(super) type Sealed = Arc<StoredResponse>;

/// Says where a body stands, or a head before its body: which one that is, its nonce tells.
pub(super) fn place<'a>(
    key: &'a CacheKey,
    variant: &'a [u8; 16],
    before: Option<&'a Bytes>,
) -> SealContext<'a> {
    let (what, body) = match before {
        None => (&b"body"[..], &[][..]),
        Some(body) => (
            &b"head"[..],
            nonce(body).map_or(&[][..], |nonce| &nonce[..]),
        ),
    };
    SealContext {
        parts: [
            what,
            key.uri().as_bytes(),
            key.full().as_bytes(),
            variant,
            body,
        ],
    }
}

impl<S: CacheStore> CacheStore for EncryptedStore<S> {
    fn keys(&self) -> &StoreKeys {
        self.inner.keys()
    }

    fn get(&self, key: &CacheKey, selection: &Selection<'_>) -> StoreFuture<Lookup> {
        match self.inner.get(key, selection).into_ready() {
            Ok(lookup) => lookup.map(|lookup| self.shared.opened(key, lookup)).into(),
            Err(pending) => {
                let (shared, key) = (Arc::clone(&self.shared), *key);
                StoreFuture::pending(async move {
                    pending.await.map(|lookup| shared.opened(&key, lookup))
                })
            }
        }
    }

    fn put(&self, put: Put) -> StoreFuture<PutOutcome> {
        match self.shared.seal(&put.key, &put.entry) {
            Ok(Some(entry)) => self.inner.put(Put { entry, ..put }),
            Ok(None) => StoreFuture::ready(PutOutcome::TooLarge),
            Err(error) => StoreFuture::failed(error),
        }
    }

    fn touch(&self, touch: Touch) -> StoreFuture<bool> {
        if !self.shared.body_stays(&touch.entry) {
            return StoreFuture::ready(false);
        }
        match self.shared.seal(&touch.key, &touch.entry) {
            Ok(Some(entry)) => self.inner.touch(Touch { entry, ..touch }),
            Ok(None) => StoreFuture::ready(false),
            Err(error) => StoreFuture::failed(error),
        }
    }

    fn purge(&self, targets: &[PurgeTarget], mode: PurgeMode) -> StoreFuture<()> {
        self.inner.purge(targets, mode)
    }

    fn is_purged_since(
        &self,
        key: &CacheKey,
        entry: &StoredResponse,
        fence: Fence,
    ) -> StoreFuture<bool> {
        self.inner.is_purged_since(key, entry, fence)
    }

    fn lease(&self, key: &CacheKey, at_most: Duration) -> StoreFuture<Lease> {
        self.inner.lease(key, at_most)
    }

    fn release(&self, key: &CacheKey, token: LeaseToken) -> StoreFuture<()> {
        self.inner.release(key, token)
    }

    fn has_timeout(&self) -> bool {
        self.inner.has_timeout()
    }
}
