//! `tower_governor`: by client address with and without headers, and by API key.

use std::time::Duration;

use ::governor::clock::QuantaInstant;
use ::governor::middleware::{NoOpMiddleware, RateLimitingMiddleware};
use ::tower_governor::governor::{GovernorConfig, GovernorConfigBuilder};
use ::tower_governor::key_extractor::{KeyExtractor, PeerIpKeyExtractor};
use ::tower_governor::{GovernorError, GovernorLayer};
use axum::body::Body;
use http::Request;
use tower::Layer;

use crate::harness::Case;
use crate::workload::{CREDENTIAL, Requests, drive, origin, router};

const NAME: &str = "tower_governor";
const NAME_BY_KEY: &str = "tower_governor-string";

pub fn cases() -> Vec<Case> {
    let requests = Requests::default;
    let by_key = wide().key_extractor(ApiKey).finish();
    vec![
        Case::peer(
            "layer/service_fn/plain",
            NAME,
            drive(layer(wide().finish()).layer(origin()), requests()),
        ),
        Case::peer(
            "layer/service_fn/plain",
            NAME_BY_KEY,
            drive(layer(by_key).layer(origin()), requests()),
        ),
        Case::peer(
            "layer/service_fn/headers",
            NAME,
            drive(
                layer(wide().use_headers().finish()).layer(origin()),
                requests(),
            ),
        ),
        Case::peer(
            "layer/router/plain",
            NAME,
            drive(router().layer(layer(wide().finish())), requests()),
        ),
        Case::peer(
            "layer/router/headers",
            NAME,
            drive(
                router().layer(layer(wide().use_headers().finish())),
                requests(),
            ),
        ),
    ]
}

pub fn layer<K, M>(config: Option<GovernorConfig<K, M>>) -> GovernorLayer<K, M, Body>
where
    K: KeyExtractor,
    M: RateLimitingMiddleware<QuantaInstant>,
{
    GovernorLayer::new(config.expect("neither the burst nor the period is zero"))
}

/// A limit that denies no row.
pub fn wide() -> GovernorConfigBuilder<PeerIpKeyExtractor, NoOpMiddleware> {
    let mut builder = GovernorConfigBuilder::default();
    builder
        .period(Duration::from_nanos(1))
        .burst_size(1_000_000);
    builder
}

/// Limits by API key, as an application would write it.
#[derive(Clone)]
struct ApiKey;

impl KeyExtractor for ApiKey {
    type Key = String;

    fn extract<B>(&self, request: &Request<B>) -> Result<String, GovernorError> {
        let key = request
            .headers()
            .get(CREDENTIAL)
            .and_then(|key| key.to_str().ok());
        key.map(str::to_owned)
            .ok_or(GovernorError::UnableToExtractKey)
    }
}
