//! How a change that was made elsewhere reaches what this process remembers.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::api_key::key::format::KeyId;

/// How a store's answers may be remembered.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ChangeNotifications {
    /// The store is this process's memory: it is asked each time, and nothing is remembered.
    Immediate,
    /// The store says what has changed: answers are remembered for some seconds, and forgotten at
    /// once when it says so, or when it can no longer say.
    Feed(KeyChangeFeed),
    /// Nobody says what has changed. Answers are remembered only if the ring is told to.
    None,
}

/// What a store says of changes: which keys were changed, and whether it would hear of them.
///
/// A store on a server keeps one, and hands a clone to each ring by
/// [`ApiKeyStore::changes`](crate::api_key::ApiKeyStore::changes). Its task that listens to the server calls
/// the three methods; until it first calls [`KeyChangeFeed::connected`], nothing is remembered.
///
/// ```
/// use portcullis::store::backend::KeyChangeFeed;
///
/// let changes = KeyChangeFeed::new();
/// assert!(!changes.is_connected());
/// changes.connected();                         // the subscription stands
/// changes.changed("1AAAAAAAAAAAAAAA".parse()?); // a message came in
/// changes.lost();                              // the connection broke
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

/// Remembers records, and forgets them when it is told.
pub(crate) trait Listener: Send + Sync {
    fn forget(&self, id: KeyId);
    fn forget_all(&self);
}

impl KeyChangeFeed {
    /// Creates a feed that is not connected yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says that from now on each change will be announced.
    pub fn connected(&self) {
        // An answer that was read before this moment may be older than a change nobody heard of.
        self.each(|listener| listener.forget_all());
        self.shared.connected.store(true, Ordering::SeqCst);
    }

    /// Says that a key was created, changed or removed.
    pub fn changed(&self, id: KeyId) {
        self.each(|listener| listener.forget(id));
    }

    /// Says that changes are no longer heard of: everything is forgotten, and nothing remembered
    /// until [`KeyChangeFeed::connected`] is called again.
    pub fn lost(&self) {
        self.shared.connected.store(false, Ordering::SeqCst);
        self.each(|listener| listener.forget_all());
    }

    /// Returns whether changes are announced at the moment.
    pub fn is_connected(&self) -> bool {
        self.shared.connected.load(Ordering::SeqCst)
    }

    pub(crate) fn listen(&self, listener: Weak<dyn Listener>) {
        let mut listeners = self.listeners();
        listeners.retain(|listener| listener.strong_count() > 0);
        listeners.push(listener);
    }

    fn each(&self, tell: impl Fn(&dyn Listener)) {
        let listeners = self.listeners().clone();
        for listener in listeners.iter().filter_map(Weak::upgrade) {
            tell(&*listener);
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
