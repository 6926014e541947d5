//! Everything that the layer was told, once.

use std::{
    num::NonZeroU32,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use http::{Request, request::Parts};

use super::{
    level::Level, observer::Observer, record::Record, redact::Redaction, scope::Scopes, sink::Sink,
    stats::LogStats, trust::Trust,
};
use crate::{
    audit::Audit,
    client_addr::ClientAddrResolver,
    time::{Clock, SystemClock},
};

/// What a user's function says of a record.
pub(super) type LevelFn = dyn Fn(&Record<'_>) -> Level + Send + Sync;

/// What a user's function says of a request.
pub(super) type SkipFn = dyn Fn(&Parts) -> bool + Send + Sync;

/// Everything that the layer was told.
#[derive(Clone)]
pub(super) struct Config {
    pub(super) sinks: Vec<Arc<dyn Sink>>,
    pub(super) observers: Vec<Arc<dyn Observer>>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) level: Option<Arc<LevelFn>>,
    pub(super) min_level: Level,
    pub(super) slow_after: Option<Duration>,
    pub(super) one_in: NonZeroU32,
    pub(super) fold_window: Option<Duration>,
    pub(super) skip: Vec<Arc<SkipFn>>,
    pub(super) redaction: Redaction,
    pub(super) client_addr: ClientAddrResolver,
    pub(super) mask_client_addr: bool,
    pub(super) trust_request_id: Trust,
    pub(super) trust_traceparent: Trust,
    pub(super) echo_request_id: bool,
    pub(super) stats: LogStats,
    pub(super) audit: Audit,
    pub(super) scopes: Option<Arc<dyn Scopes>>,
}

impl Config {
    /// Returns whether no record of this request is kept, and the request.
    pub(super) fn skips<B>(&self, request: Request<B>) -> (bool, Request<B>) {
        if self.skip.is_empty() {
            return (false, request);
        }
        let (parts, body) = request.into_parts();
        let skips = catch_unwind(AssertUnwindSafe(|| {
            self.skip.iter().any(|skip| skip(&parts))
        }));
        // A function that panics has not said that the request is to be skipped.
        let skips = skips.unwrap_or_else(|_| {
            self.stats.count_failed();
            false
        });
        (skips, Request::from_parts(parts, body))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sinks: Vec::new(),
            observers: Vec::new(),
            clock: Arc::new(SystemClock::new()),
            level: None,
            min_level: Level::Debug,
            slow_after: None,
            one_in: NonZeroU32::MIN,
            fold_window: None,
            skip: Vec::new(),
            redaction: Redaction::default(),
            client_addr: ClientAddrResolver::default(),
            mask_client_addr: false,
            trust_request_id: Trust::Nobody,
            trust_traceparent: Trust::Everybody,
            echo_request_id: true,
            stats: LogStats::default(),
            audit: Audit::default(),
            scopes: None,
        }
    }
}
