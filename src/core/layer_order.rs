//! Checks the order of the layers by the first requests that pass them.

use std::{
    any::Any,
    ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use http::Extensions;
use smallvec::SmallVec;

use super::{error::ConfigError, notice};

/// The number of requests of each layer that are checked. Later ones cost one load.
const CHECKED_MAX: u32 = 64;

/// The number of requests without an identity that a layer marks if it reads the identity.
const UNIDENTIFIED_MAX: u32 = 1_024;

/// Whether this process has marked a request without an identity. While it has not, no request is
/// searched for the mark.
static ANY_UNIDENTIFIED: AtomicBool = AtomicBool::new(false);

/// The configuration of a layer whose position is checked.
pub(crate) trait Placed: Any + Send + Sync {
    /// Returns the state of the check.
    fn placement(&self) -> &Placement;
}

/// The state of the check of one layer.
#[derive(Debug)]
pub(crate) struct Placement {
    #[cfg_attr(
        not(any(feature = "access-log", feature = "api-key", feature = "cache")),
        allow(dead_code)
    )]
    kind: LayerKind,
    checks_left: AtomicU32,
    marks_left: AtomicU32,
    #[cfg_attr(not(any(feature = "api-key", feature = "cache")), allow(dead_code))]
    is_outside_said: AtomicBool,
    is_nested_said: AtomicBool,
}

/// The kinds of layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LayerKind {
    #[cfg_attr(not(feature = "access-log"), allow(dead_code))]
    AccessLog,
    #[cfg_attr(not(feature = "api-key"), allow(dead_code))]
    ApiKey,
    #[cfg_attr(not(feature = "rate-limit"), allow(dead_code))]
    RateLimit,
    #[cfg_attr(not(feature = "cache"), allow(dead_code))]
    Cache,
}

impl LayerKind {
    #[cfg_attr(not(any(feature = "api-key", feature = "cache")), allow(dead_code))]
    fn name(self) -> &'static str {
        match self {
            Self::AccessLog => "AccessLogLayer",
            Self::ApiKey => "ApiKeyLayer",
            Self::RateLimit => "RateLimitLayer",
            Self::Cache => "CacheLayer",
        }
    }
}

/// The layers that a request has passed, outermost first: a request extension.
#[derive(Clone, Default)]
struct PassedLayers(SmallVec<[PassedLayer; 2]>);

/// A layer that a request has passed.
#[derive(Clone)]
pub(crate) struct PassedLayer {
    layer: Arc<dyn Placed>,
    /// Whether the layer read the request's identity, and there was none.
    #[cfg_attr(
        not(any(feature = "api-key", feature = "cache", feature = "rate-limit")),
        allow(dead_code)
    )]
    is_unidentified: bool,
}

impl PassedLayer {
    /// Returns the kind of the layer.
    #[cfg_attr(not(feature = "access-log"), allow(dead_code))]
    pub(crate) fn kind(&self) -> LayerKind {
        self.layer.placement().kind
    }

    /// Returns the configuration of the layer if it is of this type.
    #[cfg_attr(
        not(any(feature = "api-key", feature = "cache", feature = "rate-limit")),
        allow(dead_code)
    )]
    pub(crate) fn config<L: Placed>(&self) -> Option<&L> {
        let any: &dyn Any = &*self.layer;
        any.downcast_ref()
    }

    /// Returns whether this is the same layer, and not another one of its kind.
    #[cfg_attr(not(any(feature = "cache", feature = "rate-limit")), allow(dead_code))]
    pub(crate) fn is<L: Placed>(&self, layer: &Arc<L>) -> bool {
        self.config::<L>().is_some_and(|own| ptr::eq(own, &**layer))
    }
}

impl Placement {
    /// Begins the check of a layer of this kind. `reads_identity` is whether its decisions depend on the
    /// identity of the caller.
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

    /// Returns whether the next request is checked.
    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.checks_left.load(Ordering::Relaxed) > 0
    }

    /// Returns whether the next request is the last one that is checked.
    #[cfg_attr(not(feature = "rate-limit"), allow(dead_code))]
    pub(crate) fn is_last(&self) -> bool {
        self.checks_left.load(Ordering::Relaxed) == 1
    }

    /// Returns whether the next request is marked if it has no identity.
    #[inline]
    #[cfg_attr(
        not(any(feature = "api-key", feature = "cache", feature = "rate-limit")),
        allow(dead_code)
    )]
    pub(crate) fn reads_identity(&self) -> bool {
        self.marks_left.load(Ordering::Relaxed) > 0
    }

    /// Reports that the layer is nested in another one in a way that cannot be meant, once.
    pub(crate) fn report_nested(&self, error: impl FnOnce() -> ConfigError) {
        notice::misconfigured(&self.is_nested_said, error);
    }

    /// Reports once that the layer is outside of the one that inserts the identity.
    #[cfg_attr(not(any(feature = "api-key", feature = "cache")), allow(dead_code))]
    pub(crate) fn report_outside(&self) {
        if self.reads_identity() {
            self.marks_left.store(0, Ordering::Relaxed);
        }
        notice::misconfigured(&self.is_outside_said, || outside_of_identity(self.kind));
    }
}

/// Returns the layers of this crate that a request has passed, as far as they marked it.
pub(crate) fn passed(extensions: &Extensions) -> &[PassedLayer] {
    let passed: Option<&PassedLayers> = extensions.get();
    passed.map_or(&[], |passed| &passed.0)
}

/// Marks one of the first requests of a layer.
pub(crate) fn pass<L: Placed>(layer: &Arc<L>, extensions: &mut Extensions, is_unidentified: bool) {
    spend(&layer.placement().checks_left);
    mark(layer, extensions, is_unidentified);
}

/// Marks a request in which a layer found no identity that it reads.
#[cold]
#[cfg_attr(not(any(feature = "cache", feature = "rate-limit")), allow(dead_code))]
pub(crate) fn pass_unidentified<L: Placed>(layer: &Arc<L>, extensions: &mut Extensions) {
    let is_marked = |passed: &PassedLayer| passed.is_unidentified && passed.is(layer);
    if !passed(extensions).iter().any(is_marked) {
        mark(layer, extensions, true);
    }
}

/// Notes that a request has an identity: layers that it passed without one are in the wrong place.
#[inline]
#[cfg_attr(not(any(feature = "api-key", feature = "cache")), allow(dead_code))]
pub(crate) fn identified(extensions: &Extensions) {
    if ANY_UNIDENTIFIED.load(Ordering::Relaxed) {
        report_outside(extensions);
    }
}

#[inline(never)]
#[cfg_attr(not(any(feature = "api-key", feature = "cache")), allow(dead_code))]
fn report_outside(extensions: &Extensions) {
    let unidentified = passed(extensions).iter().filter(|one| one.is_unidentified);
    unidentified.for_each(|passed| passed.layer.placement().report_outside());
}

fn mark<L: Placed>(layer: &Arc<L>, extensions: &mut Extensions, is_unidentified: bool) {
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

/// Takes one of what is left. Threads that take at one moment may take the same one.
fn spend(left: &AtomicU32) {
    let now = left.load(Ordering::Relaxed);
    left.store(now.saturating_sub(1), Ordering::Relaxed);
}

#[cfg_attr(not(any(feature = "api-key", feature = "cache")), allow(dead_code))]
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn request_tells_the_layers_that_it_has_passed() {
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
