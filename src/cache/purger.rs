//! Letting go of what is stored, on the application's own word.

use std::{fmt, sync::Arc};

use http::Uri;

use super::{
    config::Config,
    entry::key::{Partition, RequestTarget},
    store::{PurgeMode, PurgeTarget},
};
use crate::core::{identity::Identity, store_api::store_future::StoreFuture};

/// Lets go of what a cache has stored. Made by [`CacheLayer::purger`](super::CacheLayer::purger).
///
/// Once a [hard](PurgeMode::Hard) purge has answered, nothing that it names is shown again by any
/// cache on the same store, also not what was being made while it came. After a
/// [soft](PurgeMode::Soft) one it is shown again once the handler has said that it still holds, or
/// where it may be shown stale.
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

/// What is to be let go.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Purge {
    /// All responses under this URL, for every caller.
    ///
    /// The URL is the one that the client sent: see [`ClientUri`](crate::ClientUri). Its authority is
    /// that of the requests, from their target or their `Host` field. Equivalent spellings are purged
    /// too: with or without a default port, and with unreserved characters percent-encoded or not.
    Uri(Uri),
    /// Every answer that bears this tag.
    Tag(String),
    /// All responses in this caller's own partition.
    ///
    /// The partition belongs to the [digest](Identity::digest) of the identity, so the identity must
    /// equal that of the requests in every part, including scopes and metadata.
    Caller(Identity),
    /// Everything in the store, of every cache.
    All,
}

impl Purge {
    /// Names all responses under the URL that clients send.
    pub fn uri(uri: Uri) -> Self {
        Self::Uri(uri)
    }

    /// Names every answer that bears a tag.
    pub fn tag(tag: impl Into<String>) -> Self {
        Self::Tag(tag.into())
    }
}

impl CachePurger {
    /// Lets go of all that is named: for good, or so that it is stale.
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
