//! Purging cache entries from the application.

use std::{fmt, sync::Arc};

use http::Uri;

use super::{
    config::Config,
    entry::key::{Partition, RequestTarget},
    store::{PurgeMode, PurgeTarget},
};
use crate::core::{identity::Identity, store_api::store_future::StoreFuture};

/// A handle that purges cache entries. Created by
/// [`CacheLayer::purger`](super::CacheLayer::purger).
///
/// Once a [hard](PurgeMode::Hard) purge has completed, no cache on the same store serves a matching
/// entry, including one that was being filled during the purge. After a [soft](PurgeMode::Soft)
/// purge, an entry is served only if it has been revalidated or may be served stale.
///
/// ```
/// use portcullis::{cache::{CacheLayer, Purge, PurgeMode}, store::MemoryStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), portcullis::StoreError> {
/// let cache = CacheLayer::new(MemoryStore::new());
/// let purger = cache.purger();
/// purger.purge([Purge::tag("article:7")], PurgeMode::Hard).await?;
/// purger.purge([Purge::uri("http://example.com/a?b".parse().unwrap())], PurgeMode::Soft).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct CachePurger {
    pub(super) config: Arc<Config>,
}

/// A set of entries to purge.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Purge {
    /// All entries of this URL, for every caller.
    ///
    /// The URL is the one that the client sent: see [`ClientUri`](crate::ClientUri). The URL's
    /// authority must equal the authority that the requests have in their target or `Host` field.
    /// Equivalent spellings of the URL are purged too: with or without a default port, and with
    /// unreserved characters percent-encoded or not.
    Uri(Uri),
    /// All entries with this tag.
    Tag(String),
    /// All entries in this caller's partition.
    ///
    /// The partition is derived from the [digest](Identity::digest) of the identity, so this
    /// identity must equal the requests' identity in every part, including scopes and metadata.
    Caller(Identity),
    /// All entries of all caches in the store.
    All,
}

impl Purge {
    /// Selects all entries of the URL that clients send.
    pub fn uri(uri: Uri) -> Self {
        Self::Uri(uri)
    }

    /// Selects all entries with a tag.
    pub fn tag(tag: impl Into<String>) -> Self {
        Self::Tag(tag.into())
    }
}

impl CachePurger {
    /// Purges all matching entries: removes the entries or marks them as stale, depending on the
    /// mode.
    pub fn purge(&self, what: impl IntoIterator<Item = Purge>, mode: PurgeMode) -> StoreFuture<()> {
        let keys = &self.config.keys;
        let targets: Vec<_> = what
            .into_iter()
            .map(|purge| match purge {
                Purge::Uri(uri) => {
                    let authority = uri.authority().map_or("", |authority| authority.as_str());
                    PurgeTarget::Uri(keys.uri(&RequestTarget::plain(authority, &uri)))
                }
                Purge::Tag(tag) => PurgeTarget::Tag(keys.tag(tag.as_bytes())),
                Purge::Caller(caller) => {
                    PurgeTarget::Partition(keys.partition(Partition::Own(caller.digest())))
                }
                Purge::All => PurgeTarget::All,
            })
            .collect();
        self.config.purge(&targets, mode)
    }
}

impl fmt::Debug for CachePurger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CachePurger")
    }
}
