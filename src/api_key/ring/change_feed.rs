//! Notifications of changes by other processes, which invalidate cached records.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::api_key::key::format::KeyId;

/// The source of change notifications from a store. The source determines whether records are
/// cached.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ChangeNotifications {
    /// The store is in this process's memory. The ring calls the store for each request and caches
    /// nothing.
    Immediate,
    /// The store announces changes. Records are cached for up to 10 seconds by default. A cached
    /// record is invalidated when the stored record changes. All cached records are invalidated
    /// when the subscription is lost.
    Feed(KeyChangeFeed),
    /// The store does not announce changes. Records are cached only if
    /// [`key_cache_ttl`](crate::api_key::KeyRingBuilder::key_cache_ttl) is set.
    None,
}

/// A feed of change notifications from a store.
///
/// A store on a server owns a feed, and returns a clone of it from
/// [`ApiKeyStore::changes`](crate::api_key::ApiKeyStore::changes). The task that subscribes to the
/// server calls [`notify_connected`](Self::notify_connected),
/// [`notify_changed`](Self::notify_changed) and [`notify_lost`](Self::notify_lost). Nothing is
/// cached before the first call to [`notify_connected`](Self::notify_connected).
///
/// ```
/// use portcullis::store::backend::KeyChangeFeed;
///
/// let changes = KeyChangeFeed::new();
/// assert!(!changes.is_connected());
/// changes.notify_connected();                         // subscribed
/// changes.notify_changed("1AAAAAAAAAAAAAAA".parse()?); // received a message
/// changes.notify_lost();                              // the connection closed
/// # Ok::<(), portcullis::api_key::ParseKeyError>(())
/// ```
#[derive(Clone, Default)]
pub struct KeyChangeFeed {
    shared: Arc<FeedInner>,
}

#[derive(Default)]
struct FeedInner {
    connected: AtomicBool,
    listeners: Mutex<Vec<Weak<dyn Listener>>>,
}

/// A cache of records.
pub(crate) trait Listener: Send + Sync {
    fn forget(&self, id: KeyId);
    fn forget_all(&self);
}

impl KeyChangeFeed {
    /// Creates a disconnected feed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reports that the subscription is active and that the store announces every change from now
    /// on.
    pub fn notify_connected(&self) {
        // Invalidate records that were read before the subscription: a change may have been missed.
        self.each(|listener| listener.forget_all());
        self.shared.connected.store(true, Ordering::SeqCst);
    }

    /// Reports that a key was created, changed or removed.
    pub fn notify_changed(&self, id: KeyId) {
        self.each(|listener| listener.forget(id));
    }

    /// Reports that the subscription is lost. This invalidates all cached records and disables
    /// caching until [`notify_connected`](Self::notify_connected) is called again.
    pub fn notify_lost(&self) {
        self.shared.connected.store(false, Ordering::SeqCst);
        self.each(|listener| listener.forget_all());
    }

    /// Returns `true` if changes are currently announced.
    pub fn is_connected(&self) -> bool {
        self.shared.connected.load(Ordering::SeqCst)
    }

    pub(crate) fn listen(&self, listener: Weak<dyn Listener>) {
        let mut listeners = self.listeners();
        listeners.retain(|listener| listener.strong_count() > 0);
        listeners.push(listener);
    }

    fn each(&self, notify: impl Fn(&dyn Listener)) {
        let listeners = self.listeners().clone();
        for listener in listeners.iter().filter_map(Weak::upgrade) {
            notify(&*listener);
        }
    }

    fn listeners(&self) -> MutexGuard<'_, Vec<Weak<dyn Listener>>> {
        let listeners = self.shared.listeners.lock();
        listeners.unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for KeyChangeFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyChangeFeed")
            .field("connected", &self.is_connected())
            .finish_non_exhaustive()
    }
}
