//! What a handler writes into its request's record.

use std::borrow::Cow;

use http::Extensions;

use super::{record::Arrival, trace_context::TraceContext};
use crate::core::{
    http::request_id::RequestId,
    record::{FieldValue, RecordHandle},
};

/// The record of the request at hand, for its handler; nothing happens where no record is kept.
///
/// A handler that uses it needs no access log to be tested. With feature `axum` it is an extractor,
/// and then also tells the record which route was matched.
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
    /// Returns what writes into the record of the request with these extensions.
    pub fn from_extensions(extensions: &Extensions) -> Self {
        Self {
            record: RecordHandle::from_extensions(extensions).cloned(),
        }
    }

    /// Writes a field, in the place of one of the same name.
    ///
    /// A record takes 32 fields; of a text it takes the first 1 024 bytes.
    pub fn set(&self, name: impl Into<Cow<'static, str>>, value: impl Into<FieldValue>) {
        if let Some(record) = &self.record {
            record.set_field(name, value);
        }
    }

    /// Writes the route that the request matched, as the router spells it.
    pub fn set_route(&self, route: impl Into<Cow<'static, str>>) {
        if let Some(record) = &self.record {
            record.set_route(route);
        }
    }

    /// Sets the ids of the request's own span: for a tracing layer inside of the access log, whose span
    /// [`trace_ids`](crate::access_log::AccessLogLayerBuilder::trace_ids) cannot see.
    ///
    /// The first call counts, and has priority over ids that are reported or created.
    pub fn set_span(&self, span: TraceContext) {
        let arrival = self
            .record
            .as_ref()
            .and_then(RecordHandle::beside::<Arrival>);
        if let Some(arrival) = arrival {
            // A second call changes nothing.
            let _ = arrival.inner_span.set(Box::new(span));
        }
    }

    /// Returns the request's name, if a record is kept: to hand it on, or to show it.
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
    fn what_is_set_stands_in_the_record() {
        let mut extensions = Extensions::new();
        let record = RecordHandle::default();
        extensions.insert(record.clone());
        RequestLog::from_extensions(&extensions).set("order.id", 42_i64);
        let fields = record.read(|slots| slots.fields().to_vec());
        assert_eq!(fields, [("order.id".into(), FieldValue::Int(42))]);
    }
}
