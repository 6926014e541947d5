//! Optional scopes around the work of each request, such as a `tracing` span.

use std::fmt;

use crate::access_log::record::{record::Record, trace_context::TraceContext};

/// Opens a scope per request.
pub(crate) trait Scopes: fmt::Debug + Send + Sync {
    /// Opens a scope. The record contains only what is known about the request so far.
    fn open(&self, record: &Record<'_>) -> Box<dyn Scope>;
}

/// The scope of one request, which ends when it is dropped.
pub(crate) trait Scope: Send + Sync {
    /// Called when work for the request starts on this thread.
    fn enter(&self);

    /// Called when work for the request pauses or ends.
    fn leave(&self);

    /// Called with the ids of the request's own span and of the caller's span.
    fn identify(&self, own: &TraceContext, caller: Option<&TraceContext>);

    /// Called with the record when the request has ended.
    fn end(&self, record: &Record<'_>);
}
