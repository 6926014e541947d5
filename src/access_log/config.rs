//! The configuration of the access log.

use std::{
    num::NonZeroU32,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use http::{Request, request::Parts};

use super::{
    emit::{level::LogLevel, observer::Observer, stats::LogStats},
    record::{
        record::{Arrival, Record},
        redact::Redaction,
        trust::Trust,
    },
    sinks::{scope::Scopes, sink::Sink, span_source::SpanSource},
};
use crate::core::{
    audit::Audit,
    error::ConfigError,
    inherited::Inherited,
    inherited_clock::InheritedClock,
    net::client_addr::{self, ClientAddrResolver},
    runtime::{self, Runtime, Task},
};

/// An application function that returns the level of a record.
pub(super) type LevelFn = dyn Fn(&Record<'_>) -> LogLevel + Send + Sync;

/// An application predicate on a request head.
pub(super) type HeadFn = dyn Fn(&Parts) -> bool + Send + Sync;

/// The records to write for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WantedRecords {
    Nothing,
    /// Only the record of the end.
    End,
    /// A start record and the record of the end.
    StartAndEnd,
}

/// The options of the access log.
#[derive(Clone)]
pub(crate) struct AccessLogConfig {
    pub(super) sinks: Vec<Arc<dyn Sink>>,
    pub(super) observers: Vec<Arc<dyn Observer>>,
    pub(super) clock: InheritedClock,
    pub(super) level: Option<Arc<LevelFn>>,
    pub(super) min_level: LogLevel,
    pub(super) slow_after: Option<Duration>,
    pub(super) one_in: NonZeroU32,
    pub(super) fold_window: Option<Duration>,
    pub(super) skip: Vec<Arc<HeadFn>>,
    /// Predicates that select requests with a start record on arrival.
    pub(super) start: Vec<Arc<HeadFn>>,
    /// `true` if streams have a start record when their response begins.
    pub(super) start_streams: bool,
    /// The running time after which a request has a start record.
    pub(super) start_after: Option<Duration>,
    pub(super) runtime: Option<Arc<dyn Runtime>>,
    pub(super) redaction: Redaction,
    pub(super) client_addr: Inherited<ClientAddrResolver>,
    pub(super) mask_client_addr: bool,
    /// `true` if a record without a peer address is reported.
    pub(super) report_missing_addr: bool,
    pub(super) trust_request_id: Trust,
    pub(super) trust_traceparent: Trust,
    pub(super) spans: SpanSource,
    pub(super) echo_request_id: bool,
    pub(super) stats: LogStats,
    pub(super) audit: Audit,
    pub(super) scopes: Option<Arc<dyn Scopes>>,
}

impl AccessLogConfig {
    /// Returns the records to write, and the request.
    pub(super) fn wanted<B>(&self, request: Request<B>) -> (WantedRecords, Request<B>) {
        if self.skip.is_empty() && self.start.is_empty() {
            return (WantedRecords::End, request);
        }
        let (parts, body) = request.into_parts();
        let wanted = match (self.any(&self.skip, &parts), self.any(&self.start, &parts)) {
            (true, _) => WantedRecords::Nothing,
            (false, false) => WantedRecords::End,
            (false, true) => WantedRecords::StartAndEnd,
        };
        (wanted, Request::from_parts(parts, body))
    }

    /// Returns an error if start records need a timer and no runtime is set.
    pub(super) fn check_start_timer(&self) -> Result<(), ConfigError> {
        match (self.start_after, &self.runtime) {
            (Some(after), None) => Err(ConfigError::new(
                "start_records_after",
                format!("{after:?}"),
                "it needs a runtime, and none is set",
            )
            .fix("set `runtime`, or enable the feature `tokio`")),
            (Some(_), Some(_)) | (None, _) => Ok(()),
        }
    }

    /// Returns the timer of a start record, or `None` if it is off or unavailable, for example
    /// outside a runtime.
    pub(super) fn start_timer(&self) -> Option<Task> {
        self.runtime.as_ref()?.try_sleep(self.start_after?)
    }

    /// Reports a record without a peer address, unless addresses are optional.
    pub(super) fn check_addr(&self, arrival: &Arrival) {
        if self.report_missing_addr && arrival.client.is_none() {
            client_addr::report_unrecorded();
        }
    }

    /// Returns `true` if any predicate matches. If one panics, none match.
    fn any(&self, predicates: &[Arc<HeadFn>], head: &Parts) -> bool {
        let any = || predicates.iter().any(|holds| holds(head));
        catch_unwind(AssertUnwindSafe(any)).unwrap_or_else(|_| {
            self.stats.count_failed();
            false
        })
    }
}

impl Default for AccessLogConfig {
    fn default() -> Self {
        Self {
            sinks: Vec::new(),
            observers: Vec::new(),
            clock: InheritedClock::default(),
            level: None,
            min_level: LogLevel::Debug,
            slow_after: None,
            one_in: NonZeroU32::MIN,
            fold_window: None,
            skip: Vec::new(),
            start: Vec::new(),
            start_streams: false,
            start_after: None,
            runtime: runtime::ambient(),
            redaction: Redaction::default(),
            client_addr: Inherited::default(),
            mask_client_addr: false,
            report_missing_addr: true,
            trust_request_id: Trust::Nobody,
            trust_traceparent: Trust::Everybody,
            spans: SpanSource::default(),
            echo_request_id: true,
            stats: LogStats::default(),
            audit: Audit::default(),
            scopes: None,
        }
    }
}
