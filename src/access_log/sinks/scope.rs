//! What surrounds the work of each request, where somebody wants that: a span.

use std::fmt;

use crate::access_log::record::{record::Record, trace_context::TraceContext};

/// Opens a scope for each request.
pub(crate) trait Scopes: fmt::Debug + Send + Sync {
    /// Opens a scope. Of the record only what the request says is there yet.
    fn open(&self, record: &Record<'_>) -> Box<dyn Scope>;
}

/// Surrounds the work of one request. Dropped, it is over.
pub(crate) trait Scope: Send + Sync {
    /// Work for the request begins on this thread.
    fn enter(&self);

    /// Work for the request has paused, or is done.
    fn leave(&self);

    /// The ids of the request's own span are known, beside those of the caller's.
    fn identify(&self, own: &TraceContext, caller: Option<&TraceContext>);

    /// The request has ended so.
    fn end(&self, record: &Record<'_>);
}
