//! `tower-http-cache` on a hit, with its moka store. It needs bodies that are `Sync`.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use tower::{Layer, ServiceExt};
use tower_http_cache::{backend::memory::InMemoryBackend, prelude::CacheLayer};

use crate::harness::Case;
use crate::workload::{CachedOrigin, Requests, drive_hits};

pub fn cases() -> Vec<Case> {
    let origin = CachedOrigin::default();
    let service = origin
        .service()
        .map_response(|response| response.map(|_| Full::new(Bytes::from_static(&[b'x'; 1024]))));
    let layer = CacheLayer::builder(InMemoryBackend::new(10_000))
        .ttl(Duration::from_secs(3600))
        .build();
    vec![
        Case::peer(
            "cache/hit",
            "tower-http-cache",
            drive_hits(layer.layer(service), &origin, Requests::anonymous()),
        )
        .whole(),
    ]
}
