//! Options of trace ids.

use std::sync::Arc;

use super::{layer::AccessLogLayerBuilder, record::trace_context::TraceContext};

impl AccessLogLayerBuilder {
    /// Sets the function that returns the ids of the current span: the record then has the `span_id` and
    /// `trace_id` of the request's own span. Defaults to none, and the record has no `span_id`.
    ///
    /// It is called on the thread that serves the request, at most twice:
    ///
    /// - before the inner service is called, inside of the [`span`](#method.span) that this layer opens,
    ///   or else inside of the span of a layer outside of this one, such as tower-http's `TraceLayer`;
    /// - when the request has ended, if there was no span before. Inside of a span that this layer
    ///   opened, it is called again in any case, so that a remote parent that was set meanwhile counts.
    ///
    /// A layer that opens its span inside of this one is not seen: a service inside of that layer passes
    /// the ids to [`RequestLog::set_span`](super::RequestLog::set_span). A function that returns the caller's
    /// span, or panics, returns no ids. The extensions of the request hold the [`TraceContext`] that the
    /// first call returned.
    ///
    /// With `tracing-opentelemetry`:
    ///
    /// ```
    /// # mod tracing {
    /// #     pub struct Span;
    /// #     impl Span { pub fn current() -> Self { Self } }
    /// # }
    /// # mod opentelemetry { pub mod trace {
    /// #     pub struct Context;
    /// #     pub struct SpanRef;
    /// #     pub struct SpanContext;
    /// #     pub struct TraceId;
    /// #     pub struct SpanId;
    /// #     pub struct TraceFlags;
    /// #     pub trait TraceContextExt { fn span(&self) -> SpanRef; }
    /// #     impl TraceContextExt for Context { fn span(&self) -> SpanRef { SpanRef } }
    /// #     impl SpanRef { pub fn span_context(&self) -> &SpanContext { &SpanContext } }
    /// #     impl SpanContext {
    /// #         pub fn trace_id(&self) -> TraceId { TraceId }
    /// #         pub fn span_id(&self) -> SpanId { SpanId }
    /// #         pub fn trace_flags(&self) -> TraceFlags { TraceFlags }
    /// #     }
    /// #     impl TraceId { pub fn to_bytes(self) -> [u8; 16] { [1; 16] } }
    /// #     impl SpanId { pub fn to_bytes(self) -> [u8; 8] { [1; 8] } }
    /// #     impl TraceFlags { pub fn to_u8(self) -> u8 { 1 } }
    /// # } }
    /// # mod tracing_opentelemetry {
    /// #     pub trait OpenTelemetrySpanExt { fn context(&self) -> super::opentelemetry::trace::Context; }
    /// #     impl OpenTelemetrySpanExt for super::tracing::Span {
    /// #         fn context(&self) -> super::opentelemetry::trace::Context { super::opentelemetry::trace::Context }
    /// #     }
    /// # }
    /// # fn main() -> Result<(), portcullis::ConfigError> {
    /// # use self::{opentelemetry, tracing, tracing_opentelemetry};
    /// use opentelemetry::trace::TraceContextExt;
    /// use portcullis::access_log::{AccessLogLayer, TraceContext};
    /// use tracing_opentelemetry::OpenTelemetrySpanExt;
    ///
    /// fn current_span() -> Option<TraceContext> {
    ///     let context = tracing::Span::current().context();
    ///     let span = context.span();
    ///     let span = span.span_context();
    ///     // Ids that are all zero, as without a span, are `None`.
    ///     TraceContext::new(
    ///         span.trace_id().to_bytes(),
    ///         span.span_id().to_bytes(),
    ///         span.trace_flags().to_u8(),
    ///     )
    /// }
    ///
    /// // Inside of the layer that opens the span, or with `.span(LogLevel::Info)` (feature `tracing`).
    /// let layer = AccessLogLayer::builder().trace_ids(current_span).build()?;
    /// # let _ = layer;
    /// # Ok(())
    /// # }
    /// ```
    pub fn trace_ids(
        mut self,
        current_span: impl Fn() -> Option<TraceContext> + Send + Sync + 'static,
    ) -> Self {
        self.config.spans.current = Some(Arc::new(current_span));
        self
    }

    /// Creates ids for requests whose span is not known: a random `span_id`, in the trace of a
    /// [trusted](Self::trust_traceparent) `traceparent` or else in a new one. Defaults to off.
    ///
    /// The inner service continues the trace without further setup: the request carries the created ids as
    /// its `traceparent`, in place of the one that the caller sent, and its extensions hold them as
    /// [`TraceContext`], whose [`traceparent`](TraceContext::traceparent) belongs into outgoing requests.
    /// A new trace removes `tracestate`.
    ///
    /// The caller's flag "sampled" is kept. That of a new trace is set if the record is written, however
    /// the request ends: always, or for one in as many requests as
    /// [`sample_one_in`](Self::sample_one_in) says. With [`trace_ids`](Self::trace_ids), ids are created
    /// for requests for which that function returns `None` before the inner service is called.
    pub fn create_trace_ids(mut self) -> Self {
        self.config.spans.creates = true;
        self
    }
}
