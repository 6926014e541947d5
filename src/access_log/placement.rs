//! Detection of an access log inside other layers.

use std::sync::Arc;

use http::Extensions;

use super::emit::emit::Emitter;
use crate::core::{
    error::ConfigError,
    layer_order::{self, LayerKind, PassedLayer, Placed, Placement},
};

impl Placed for Emitter {
    fn placement(&self) -> &Placement {
        &self.placement
    }
}

/// Checks one of the first requests and marks it for the inner layers.
#[cold]
pub(super) fn check(emitter: &Arc<Emitter>, extensions: &mut Extensions) {
    if let Some(outer) = layer_order::passed(extensions).last() {
        emitter.placement.report_nested(|| inside(outer));
    }
    layer_order::pass(emitter, extensions, false);
}

fn inside(outer: &PassedLayer) -> ConfigError {
    let (value, problem) = match outer.kind() {
        LayerKind::AccessLog => (
            "inside of another `AccessLogLayer`",
            "each request has two records, and the outer one lacks the decisions of inner layers",
        ),
        LayerKind::ApiKey => ("inside of `ApiKeyLayer`", UNRECORDED),
        LayerKind::RateLimit => ("inside of `RateLimitLayer`", UNRECORDED),
        LayerKind::Cache => ("inside of `CacheLayer`", UNRECORDED),
    };
    ConfigError::new("AccessLogLayer", value, problem)
        .fix("apply one access log as the outermost layer, or use `Gate`")
}

const UNRECORDED: &str = "responses of the outer layer have no record";
