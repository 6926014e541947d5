//! Our cache, beside the peers.

use portcullis::{cache::CacheLayer, store::MemoryStore};
use tower::Layer;

use crate::harness::Case;
use crate::workload::{CachedOrigin, Requests, drive_hits};

pub fn cases() -> Vec<Case> {
    let origin = CachedOrigin::default();
    let cached = CacheLayer::new(MemoryStore::new()).layer(origin.service());
    vec![Case::ours(
        "cache/hit",
        drive_hits(cached, &origin, Requests::anonymous()),
    )]
}
