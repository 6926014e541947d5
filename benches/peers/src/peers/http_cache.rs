//! `http-cache-tower-server` on a hit, with its moka store.

use http_cache::MokaManager;
use http_cache_tower_server::ServerCacheLayer;
use moka::future::Cache;
use tower::Layer;

use crate::harness::Case;
use crate::workload::{CachedOrigin, Requests, drive, drive_hits};

pub fn cases() -> Vec<Case> {
    let origin = CachedOrigin::default();
    // The default capacity of 42 responses is less than the number of targets.
    let layer = ServerCacheLayer::new(MokaManager::new(Cache::new(10_000)));
    let bare = crate::workload::origin();
    let uncacheable = drive(layer.clone().layer(bare), Requests::anonymous());
    vec![
        Case::peer(
            "cache/hit",
            "http-cache-tower-server",
            drive_hits(
                layer.layer(origin.service()),
                &origin,
                Requests::anonymous(),
            ),
        )
        .whole(),
        Case::peer("cache/miss", "http-cache-tower-server", uncacheable),
    ]
}
