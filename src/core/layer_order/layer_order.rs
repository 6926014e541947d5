//! Checks the order of the layers with the first requests.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use http::Extensions;
use smallvec::SmallVec;

use crate::core::{error::ConfigError, notice};

/// The number of requests that are checked in each layer. Each later request costs one atomic load.
const CHECKED_MAX: u32 = 64;

/// The number of requests without an identity that a layer marks if it reads the identity.
const UNIDENTIFIED_MAX: u32 = 1_024;

/// `true` once this process has marked a request without an identity. Until then, no request is
/// searched for the mark.
pub(super) static ANY_UNIDENTIFIED: AtomicBool = AtomicBool::new(false);

/// The configuration of a layer whose position is checked.
pub(crate) trait Placed: Any + Send + Sync {
    /// Returns the state of the check.
    fn placement(&self) -> &Placement;
}

/// The state of the check of one layer.
#[derive(Debug)]
#[cfg_attr(
    not(any(feature = "api-key", feature = "cache")),
    allow(dead_code, reason = "read where a layer inserts or needs an identity")
)]
pub(crate) struct Placement {
    pub(super) kind: LayerKind,
    pub(super) checks_left: AtomicU32,
    pub(super) marks_left: AtomicU32,
    pub(super) is_outside_said: AtomicBool,
    is_nested_said: AtomicBool,
}

/// The kinds of layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(all(
        feature = "access-log",
        feature = "api-key",
        feature = "cache",
        feature = "rate-limit"
    )),
    allow(dead_code, reason = "each layer has its own kind alone")
)]
pub(crate) enum LayerKind {
    AccessLog,
    ApiKey,
    RateLimit,
    Cache,
}

/// The layers that a request has passed through, outermost first. Stored as a request extension.
#[derive(Clone, Default)]
struct PassedLayers(SmallVec<[PassedLayer; 2]>);

/// A layer that a request has passed through.
#[derive(Clone)]
#[cfg_attr(
    not(any(feature = "api-key", feature = "cache", feature = "rate-limit")),
    allow(dead_code, reason = "the access log does not read the identity")
)]
pub(crate) struct PassedLayer {
    pub(super) layer: Arc<dyn Placed>,
    /// `true` if the layer read the request's identity and found none.
    pub(super) is_unidentified: bool,
}

impl Placement {
    /// Creates the check of a layer. `reads_identity` is `true` if the layer's decisions depend on
    /// the identity of the caller.
    pub(crate) fn new(kind: LayerKind, reads_identity: bool) -> Self {
        let marks = if reads_identity { UNIDENTIFIED_MAX } else { 0 };
        Self {
            kind,
            checks_left: AtomicU32::new(CHECKED_MAX),
            marks_left: AtomicU32::new(marks),
            is_outside_said: AtomicBool::new(false),
            is_nested_said: AtomicBool::new(false),
        }
    }

    /// Returns `true` if the next request is to be checked.
    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.checks_left.load(Ordering::Relaxed) > 0
    }

    /// Reports once that the nesting of the layer is invalid.
    pub(crate) fn report_nested(&self, error: impl FnOnce() -> ConfigError) {
        notice::misconfigured(&self.is_nested_said, error);
    }
}

/// Returns the layers of this crate that a request has passed through and that have marked the
/// request.
pub(crate) fn passed(extensions: &Extensions) -> &[PassedLayer] {
    let passed: Option<&PassedLayers> = extensions.get();
    passed.map_or(&[], |passed| &passed.0)
}

/// Marks one of the first requests of a layer.
pub(crate) fn pass<L: Placed>(layer: &Arc<L>, extensions: &mut Extensions, is_unidentified: bool) {
    spend(&layer.placement().checks_left);
    mark(layer, extensions, is_unidentified);
}

pub(super) fn mark<L: Placed>(layer: &Arc<L>, extensions: &mut Extensions, is_unidentified: bool) {
    if is_unidentified {
        spend(&layer.placement().marks_left);
        ANY_UNIDENTIFIED.store(true, Ordering::Relaxed);
    }
    let layer: Arc<dyn Placed> = Arc::clone(layer) as _;
    let passed = PassedLayer {
        layer,
        is_unidentified,
    };
    let all: &mut PassedLayers = extensions.get_or_insert_default();
    all.0.push(passed);
}

/// Decrements a counter. Concurrent calls may decrement it only once.
fn spend(left: &AtomicU32) {
    let now = left.load(Ordering::Relaxed);
    left.store(now.saturating_sub(1), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::layer_order::{identified, pass_unidentified};

    struct Layer(Placement);

    impl Placed for Layer {
        fn placement(&self) -> &Placement {
            &self.0
        }
    }

    fn layer(reads_identity: bool) -> Arc<Layer> {
        Arc::new(Layer(Placement::new(LayerKind::RateLimit, reads_identity)))
    }

    #[test]
    fn only_the_first_requests_are_marked() {
        let layer = layer(false);
        let mut marked = 0;
        while layer.0.is_open() {
            let mut extensions = Extensions::new();
            pass(&layer, &mut extensions, false);
            marked += passed(&extensions).len() as u32;
        }
        assert_eq!(marked, CHECKED_MAX);
        assert!(!layer.0.reads_identity());
    }

    #[test]
    fn request_lists_the_layers_that_it_passed() {
        let (one, two) = (layer(false), layer(true));
        let mut extensions = Extensions::new();
        pass(&one, &mut extensions, false);
        pass_unidentified(&two, &mut extensions);
        pass_unidentified(&two, &mut extensions);
        let [first, second] = passed(&extensions) else {
            panic!("not two");
        };
        assert!(first.is(&one) && !first.is(&two) && second.is(&two));
        assert!(first.config::<Layer>().is_some());
        assert_eq!(first.kind(), LayerKind::RateLimit);
    }

    #[test]
    fn identity_further_inside_ends_the_marks_of_the_layer_alone_that_read_it() {
        let (reads, other) = (layer(true), layer(true));
        let mut extensions = Extensions::new();
        pass(&other, &mut extensions, false);
        pass_unidentified(&reads, &mut extensions);
        identified(&extensions);
        assert!(!reads.0.reads_identity() && other.0.reads_identity());
    }
}
