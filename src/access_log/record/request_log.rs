//! The handle through which a handler writes to the record of its request.

use std::borrow::Cow;

use http::Extensions;

use super::{record::Arrival, trace_context::TraceContext};
use crate::core::{
    http::request_id::RequestId,
    record::{FieldValue, RecordHandle},
};

/// A handle to the record of the current request. If the request has no record, calls on the handle
/// have no effect.
///
/// Handlers that use a `RequestLog` can therefore be tested without an access log. With feature
/// `axum`, `RequestLog` is also an extractor, which records the matched route.
///
/// ```
/// use portcullis::access_log::RequestLog;
///
/// fn handle(request: &http::Request<()>) {
///     let log = RequestLog::from_extensions(request.extensions());
///     log.set("order.id", 42_i64);
///     log.set("order.kind", "express");
/// }
/// # handle(&http::Request::new(()));
/// ```
#[derive(Clone, Debug, Default)]
pub struct RequestLog {
    record: Option<RecordHandle>,
}

impl RequestLog {
    /// Returns the handle for the request with these extensions.
    pub fn from_extensions(extensions: &Extensions) -> Self {
        Self {
            record: RecordHandle::from_extensions(extensions).cloned(),
        }
    }

    /// Sets a custom field. A field with the same name is replaced.
    ///
    /// A record stores at most 32 custom fields and the first 1 024 bytes of each string.
    pub fn set(&self, name: impl Into<Cow<'static, str>>, value: impl Into<FieldValue>) {
        if let Some(record) = &self.record {
            record.set_field(name, value);
        }
    }

    /// Sets the route that the request matched, in the router's notation.
    pub fn set_route(&self, route: impl Into<Cow<'static, str>>) {
        if let Some(record) = &self.record {
            record.set_route(route);
        }
    }

    /// Sets the ids of the request's own span. A tracing layer inside the access log can call this
    /// method, because [`trace_ids`](crate::access_log::AccessLogLayerBuilder::trace_ids) cannot
    /// return the span of an inner layer.
    ///
    /// Only the first call has an effect. These ids take priority over reported and created ids.
    pub fn set_span(&self, span: TraceContext) {
        let arrival = self
            .record
            .as_ref()
            .and_then(RecordHandle::beside::<Arrival>);
        if let Some(arrival) = arrival {
            // Later calls have no effect.
            let _ = arrival.inner_span.set(Box::new(span));
        }
    }

    /// Returns the request id, for use in outgoing requests and error pages. Returns `None` if the
    /// request has no record.
    pub fn request_id(&self) -> Option<RequestId> {
        self.record.as_ref()?.request_id()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_access_log_nothing_happens() {
        let log = RequestLog::from_extensions(&Extensions::new());
        log.set("order.id", 42_i64);
        log.set_route("/orders/{id}");
        log.set_span(TraceContext::new([1; 16], [2; 8], 1).unwrap());
        assert!(log.request_id().is_none());
    }

    #[test]
    fn set_fields_are_in_the_record() {
        let mut extensions = Extensions::new();
        let record = RecordHandle::default();
        extensions.insert(record.clone());
        RequestLog::from_extensions(&extensions).set("order.id", 42_i64);
        let fields = record.read(|slots| slots.fields().to_vec());
        assert_eq!(fields, [("order.id".into(), FieldValue::Int(42))]);
    }
}
