//! The ids of a request's own span, which the application's tracing reports or this crate creates.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use http::{HeaderMap, HeaderName};

use crate::access_log::{
    emit::stats::LogStats,
    record::trace_context::{TRACEPARENT, TraceContext},
};

const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// A function that returns the current span of this thread.
pub(super) type CurrentSpan = dyn Fn() -> Option<TraceContext> + Send + Sync;

/// Sources of the ids of a request's own span.
#[derive(Clone, Default)]
pub(crate) struct SpanSource {
    pub(crate) current: Option<Arc<CurrentSpan>>,
    pub(crate) creates: bool,
}

/// The ids of a request's own span.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum OwnSpan {
    #[default]
    Unknown,
    /// Reported by the application's tracing.
    Reported(TraceContext),
    /// Created, and propagated with the request.
    Created(TraceContext),
}

impl OwnSpan {
    pub(crate) fn ids(self) -> Option<TraceContext> {
        match self {
            Self::Unknown => None,
            Self::Reported(ids) | Self::Created(ids) => Some(ids),
        }
    }
}

impl SpanSource {
    /// Returns `true` if a request can have its own span ids.
    pub(crate) fn is_used(&self) -> bool {
        self.creates || self.current.is_some()
    }

    /// Returns the current span, unless it is the caller's: a remote span is not the request's own.
    pub(crate) fn current(
        &self,
        caller: Option<&TraceContext>,
        stats: &LogStats,
    ) -> Option<TraceContext> {
        let current = self.current.as_ref()?;
        let span = catch_unwind(AssertUnwindSafe(|| current())).unwrap_or_else(|_| {
            stats.count_failed();
            None
        })?;
        let is_callers = caller.is_some_and(|caller| caller.span_id() == span.span_id());
        (!is_callers).then_some(span)
    }

    /// Creates a span in the caller's trace, or in a new one, if creation is enabled.
    pub(crate) fn create(
        &self,
        caller: Option<&TraceContext>,
        sampled: impl FnOnce() -> bool,
    ) -> OwnSpan {
        match caller {
            _ if !self.creates => OwnSpan::Unknown,
            Some(caller) => OwnSpan::Created(caller.child()),
            None => OwnSpan::Created(TraceContext::root(sampled())),
        }
    }
}

/// Writes a created span to the request headers. For a new trace, the vendor data (`tracestate`) of
/// the old one is removed.
pub(crate) fn propagate(
    headers: &mut HeaderMap,
    span: &TraceContext,
    caller: Option<&TraceContext>,
) {
    if caller.is_none() {
        headers.remove(TRACESTATE);
    }
    // If the header map is full, the request passes without it.
    let _ = headers.try_insert(TRACEPARENT, span.traceparent());
}
