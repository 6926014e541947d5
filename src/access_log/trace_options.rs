//! Builder options for trace ids.

use std::sync::Arc;

use super::{layer::AccessLogLayerBuilder, record::trace_context::TraceContext};

impl AccessLogLayerBuilder {
    /// Sets the function that returns the ids of the current span. The record then has the
    /// `span_id` and `trace_id` of the request's own span. Defaults to none: the record has no
    /// `span_id`.
    ///
    /// It is called on the thread that serves the request, at most twice:
    ///
    /// - before the inner service is called: inside the [`span`](#method.span) that this layer
    ///   opens, or else inside the span of an outer layer, such as tower-http's `TraceLayer`;
    /// - when the request ends, if there was no span before. Inside a span that this layer opened,
    ///   it is always called again, so that a remote parent that was set in the meantime is used.
    ///
    /// Spans of inner layers are not visible to it: a service inside such a layer calls
    /// [`RequestLog::set_span`](super::RequestLog::set_span). The ids are ignored if the function
    /// returns the caller's span or panics. The request's extensions contain the [`TraceContext`]
    /// that the first call returned.
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
    /// #     use super::opentelemetry::trace::Context;
    /// #     pub trait OpenTelemetrySpanExt { fn context(&self) -> Context; }
    /// #     impl OpenTelemetrySpanExt for super::tracing::Span {
    /// #         fn context(&self) -> Context { Context }
    /// #     }
    /// # }
    /// # fn main() -> Result<(), portcullis::ConfigError> {
    /// # use self::{opentelemetry, tracing, tracing_opentelemetry};
    /// use opentelemetry::trace::TraceContextExt;
    /// use portcullis::access_log::{AccessLogLayer, record::TraceContext};
    /// use tracing_opentelemetry::OpenTelemetrySpanExt;
    ///
    /// fn current_span() -> Option<TraceContext> {
    ///     let context = tracing::Span::current().context();
    ///     let span = context.span();
    ///     let span = span.span_context();
    ///     // All-zero ids, as without a span, are `None`.
    ///     TraceContext::new(
    ///         span.trace_id().to_bytes(),
    ///         span.span_id().to_bytes(),
    ///         span.trace_flags().to_u8(),
    ///     )
    /// }
    ///
    /// // Apply it inside the layer that opens the span, or add `.span(LogLevel::Info)` (feature
    /// // `tracing`).
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

    /// Creates ids for requests without a known span: a random `span_id` in the trace of a
    /// [trusted](Self::trust_traceparent) `traceparent`, or in a new trace. Defaults to off.
    ///
    /// The inner service continues the trace without further setup. The request carries the created
    /// ids as its `traceparent`, which replaces the caller's, and as a [`TraceContext`] extension.
    /// Send [`TraceContext::traceparent`] with outgoing requests. A new trace removes `tracestate`.
    ///
    /// The caller's "sampled" flag is preserved. In a new trace, the flag is set if the record will
    /// be written regardless of the outcome: always, or for one in
    /// [`sample_one_in`](Self::sample_one_in) requests. With [`trace_ids`](Self::trace_ids), ids
    /// are created only if that function returns `None` before the inner service is called.
    pub fn create_trace_ids(mut self) -> Self {
        self.config.spans.creates = true;
        self
    }
}
