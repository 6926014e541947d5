//! Builder options for trace ids.

use std::sync::Arc;

use super::{layer::AccessLogLayerBuilder, record::trace_context::TraceContext};

impl AccessLogLayerBuilder {
    /// Sets the function that returns the ids of the current span. The record then has the
    /// `span_id` and `trace_id` of the request's own span. By default, there is no such function,
    /// and the record has no `span_id`.
    ///
    /// The function is called at most twice, on the thread that serves the request:
    ///
    /// - It is called before the inner service. At this time, the current span is the
    ///   [`span`](#method.span) that this layer opens. Without that option, it is the span of an
    ///   outer layer, such as tower-http's `TraceLayer`.
    /// - It is called when the request ends, if the first call returned no span. Inside a span that
    ///   this layer opened, it is always called again, because an inner layer could have set a
    ///   remote parent.
    ///
    /// The function cannot see the spans of inner layers. A service inside such a layer calls
    /// [`RequestLog::set_span`](super::RequestLog::set_span) instead. If the function panics or
    /// returns the caller's span, its result is ignored. The request's extensions contain the
    /// [`TraceContext`] that the first call returned.
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

    /// Creates ids for requests whose own span is unknown: a random `span_id` in the trace that a
    /// [trusted](Self::trust_traceparent) `traceparent` identifies, or in a new trace. This option
    /// is off by default.
    ///
    /// The inner service continues the trace without further setup. The created ids are in the
    /// request's `traceparent` header, where they replace the caller's ids, and in the request's
    /// [`TraceContext`] extension. Add [`TraceContext::traceparent`] to outgoing requests. If a new
    /// trace is created, the `tracestate` header is removed.
    ///
    /// The caller's "sampled" flag is preserved. In a new trace, the flag is set for requests whose
    /// record is always written, regardless of the outcome. These are all requests, or one in
    /// [`sample_one_in`](Self::sample_one_in). With [`trace_ids`](Self::trace_ids), ids are created
    /// only if that function returns `None` before the inner service is called.
    pub fn create_trace_ids(mut self) -> Self {
        self.config.spans.creates = true;
        self
    }
}
