//! Reports layers that are outside the layer that inserts the identity.

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
    /// Reports once that the layer is outside the layer that inserts the identity.
    pub(crate) fn report_outside(&self) {
        if self.reads_identity() {
            self.marks_left.store(0, Ordering::Relaxed);
        }
        notice::misconfigured(&self.is_outside_said, || outside_of_identity(self.kind));
    }
}

/// Reports the layers that a request passed through without an identity, now that the request has
/// one.
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
            "it cannot see the caller: requests with a credential bypass the cache, and callers \
             whose credential it does not recognize receive anonymous responses"
        }
        LayerKind::RateLimit | LayerKind::AccessLog | LayerKind::ApiKey => {
            "it counts or selects limits by the identity, which is not available there: requests \
             are not counted, or have the limits of anonymous callers"
        }
    };
    let value = "outside of the layer that inserts the `Identity`";
    ConfigError::new(kind.name(), value, problem)
        .fix("apply it inside of `ApiKeyLayer` or the layer that authenticates, or build the stack with `Gate`")
}
