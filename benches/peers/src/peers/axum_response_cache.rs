//! `axum-response-cache` on a hit, with and without its own `X-Cache-Age`.

use std::time::Duration;

use ::axum_response_cache::CacheLayer;
use tower::Layer;

use crate::harness::Case;
use crate::workload::{CachedOrigin, Requests, drive_hits};

pub fn cases() -> Vec<Case> {
    let layer = || CacheLayer::with_lifespan(Duration::from_secs(3600));
    let (plain, aged) = (CachedOrigin::default(), CachedOrigin::default());
    let requests = Requests::anonymous;
    vec![
        Case::peer(
            "cache/hit",
            "axum-response-cache",
            drive_hits(layer().layer(plain.service()), &plain, requests()),
        )
        .whole(),
        Case::peer(
            "cache/hit",
            "axum-response-cache-age",
            drive_hits(
                layer().add_response_headers().layer(aged.service()),
                &aged,
                requests(),
            ),
        )
        .whole(),
    ]
}
