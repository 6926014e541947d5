//! Reports layers outside of the one that inserts the identity.

use std::sync::atomic::Ordering;

use http::Extensions;

use super::layer_order::{ANY_UNIDENTIFIED, LayerKind, Placement, passed};
use crate::core::{error::ConfigError, notice};

impl LayerKind {
    fn name(self) -> &'static str {
        match self {
            Self::AccessLog => "AccessLogLayer",
            Self::ApiKey => "ApiKeyLayer",
            Self::RateLimit => "RateLimitLayer",
            Self::Cache => "CacheLayer",
        }
    }
}

impl Placement {
    /// Reports once that the layer is outside of the one that inserts the identity.
    pub(crate) fn report_outside(&self) {
        if self.reads_identity() {
            self.marks_left.store(0, Ordering::Relaxed);
        }
        notice::misconfigured(&self.is_outside_said, || outside_of_identity(self.kind));
    }
}

/// Notes that a request has an identity: layers that it passed without one are in the wrong place.
#[inline]
pub(crate) fn identified(extensions: &Extensions) {
    if ANY_UNIDENTIFIED.load(Ordering::Relaxed) {
        report_outside(extensions);
    }
}

#[inline(never)]
fn report_outside(extensions: &Extensions) {
    let unidentified = passed(extensions).iter().filter(|one| one.is_unidentified);
    unidentified.for_each(|passed| passed.layer.placement().report_outside());
}

fn outside_of_identity(kind: LayerKind) -> ConfigError {
    let problem = match kind {
        LayerKind::Cache => {
            "it does not know the caller: a request with a credential bypasses the cache, and one \
             whose credential it does not recognize is answered as anonymous"
        }
        LayerKind::RateLimit | LayerKind::AccessLog | LayerKind::ApiKey => {
            "it counts or chooses by the identity, which is not known there yet: requests pass \
             uncounted, or have the limits of anonymous callers"
        }
    };
    let value = "outside of the layer that inserts the `Identity`";
    ConfigError::new(kind.name(), value, problem)
        .fix("apply it inside of `ApiKeyLayer` or whichever layer authenticates, or stack the layers by `Gate`")
}
