//! Our cache.

use portcullis::{cache::CacheLayer, store::MemoryStore};
use tower::Layer;

use crate::harness::Case;
use crate::workload::{CachedOrigin, Requests, drive, drive_hits, origin};

pub fn cases() -> Vec<Case> {
    let cached = CachedOrigin::default();
    let layer = || CacheLayer::new(MemoryStore::new());
    vec![
        Case::ours(
            "cache/hit",
            drive_hits(
                layer().layer(cached.service()),
                &cached,
                Requests::anonymous(),
            ),
        )
        .whole(),
        // The origin's responses state no freshness lifetime.
        Case::ours(
            "cache/miss",
            drive(layer().layer(origin()), Requests::anonymous()),
        ),
    ]
}
