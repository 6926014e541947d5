//! A store that encrypts cached responses.

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
        store_api::{
            store_future::{ReadyOrPending, StoreFuture},
            store_key::StoreKeys,
        },
    },
};
use bytes::Bytes;

/// A cache store that encrypts responses before it passes them to another store.
///
/// The status, header fields, times and body of a response are encrypted (XChaCha20-Poly1305) and
/// bound to the response's key and variant. Bytes that were modified, truncated, moved, or
/// encrypted with an unknown key are treated as a cache miss, and the handler is called.
///
/// The inner store sees only the data that it needs to select, purge and evict entries. This data
/// consists of digests of the key, variant, partition and tags; the *names* of the fields in
/// `Vary`; the size of the response; and its lifetime. An attacker with write access to the inner
/// store can remove responses. Such an attacker can also restore an earlier response for the same
/// key, but the restored response is not served beyond its freshness lifetime. The digests are
/// keyed with the inner store's [`StoreKeys`].
///
/// ```
/// use portcullis::{
///     cache::CacheLayer,
///     store::{EncryptedStore, EncryptionKey, MemoryStore},
/// };
///
/// // To rotate, first add the new secret as a previous key everywhere, then exchange the two.
/// let current = EncryptionKey::new(2, b"thirty-two bytes or more, from a secret manager")?;
/// let previous = EncryptionKey::new(1, b"the previous secret, which can only decrypt")?;
/// let store = EncryptedStore::builder(MemoryStore::new(), current)
///     .previous_key(previous)
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
    /// The key that encrypts, followed by the keys that only decrypt.
    pub(super) keys: Vec<EncryptionKey>,
    unreadable: AtomicBool,
}

impl<S: CacheStore> EncryptedStore<S> {
    /// Creates a builder for a store that encrypts with this key.
    pub fn builder(inner: S, key: EncryptionKey) -> EncryptedStoreBuilder<S> {
        EncryptedStoreBuilder {
            inner,
            keys: vec![key],
        }
    }

    /// Returns the inner store, which holds the encrypted responses.
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

/// A builder of [`EncryptedStore`]. Created by [`EncryptedStore::builder`].
#[must_use]
pub struct EncryptedStoreBuilder<S> {
    inner: S,
    pub(super) keys: Vec<EncryptionKey>,
}

impl<S: CacheStore> EncryptedStoreBuilder<S> {
    /// Adds a key that is used only for decryption. None by default.
    ///
    /// Revalidation does not encrypt a body again. You can remove a previous key once all responses
    /// that were encrypted with that key have expired.
    pub fn previous_key(mut self, key: EncryptionKey) -> Self {
        self.keys.push(key);
        self
    }

    /// Builds the store.
    ///
    /// # Errors
    ///
    /// Returns an error if two of the keys have the same id.
    pub fn build(self) -> Result<EncryptedStore<S>, ConfigError> {
        let mut ids: Vec<u16> = self.keys.iter().map(EncryptionKey::id).collect();
        ids.sort_unstable();
        if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            let problem = "two keys have this id";
            return Err(ConfigError::new("previous_key", twice[0], problem)
                .fix("give each key a unique id, and never reuse one"));
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

pub(super) const UNREADABLE: &str = "a cached response cannot be decrypted with the keys of this process: \
     it was encrypted under another key, or was modified. It is treated as a miss, like all further ones. \
     During a rotation, add the new key to each instance before one of them encrypts with it";

impl EncryptedInner {
    /// Returns the encrypted response for the inner store, or `None` if the encrypted response is
    /// too large.
    fn seal(&self, key: &CacheKey, entry: &StoredResponse) -> Result<Option<Sealed>, StoreError> {
        let Some(head) = entry.encode_head() else {
            return Ok(None);
        };
        let newest = &self.keys[0];
        let variant = entry.variant();
        let body = match entry.sealed_body() {
            // An update of the head does not encrypt the body again.
            Some(body) => body.clone(),
            None => newest.seal(&place(key, variant.as_bytes(), None), entry.body())?,
        };
        let head = newest.seal(&place(key, variant.as_bytes(), Some(&body)), &head)?;
        Ok(Some(Arc::new(entry.seal(head, body))))
    }

    /// Returns `true` if the body can be retained when the head is replaced. This is the case if
    /// the body is not encrypted or is encrypted with the current key. Otherwise, a previous key
    /// would stay in use.
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

/// Returns the context of a body or, if a body is given, the context of the head of that body,
/// which its nonce identifies.
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
            ReadyOrPending::Ready(lookup) => {
                lookup.map(|lookup| self.shared.opened(key, lookup)).into()
            }
            ReadyOrPending::Pending(pending) => {
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
