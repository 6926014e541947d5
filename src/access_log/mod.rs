//! Access log middleware that writes exactly one record per request.
//!
//! The record is emitted when the response body ends, the client disconnects, or the handler
//! panics. It contains the decisions of all of this crate's layers.
//!
//! ```
//! use std::convert::Infallible;
//!
//! use http::{Request, Response, StatusCode};
//! use portcullis::access_log::{AccessLogLayer, RequestLog};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! // A server only needs `AccessLogLayer::stderr()`.
//! let (layer, log) = AccessLogLayer::test();
//! let app = ServiceBuilder::new()
//!     .layer(layer)
//!     .service(service_fn(async |request: Request<String>| {
//!         RequestLog::from_extensions(request.extensions()).set("order.id", 42_i64);
//!         Ok::<_, Infallible>(Response::new(String::new()))
//!     }));
//!
//! let request = Request::get("/orders?token=s3cret").body(String::new()).unwrap();
//! let response = app.oneshot(request).await.unwrap();
//! assert!(response.headers().contains_key("x-request-id"));
//!
//! let record = log.last().unwrap();
//! assert!(record.contains(r#""url.path":"/orders","url.query":"token=REDACTED""#));
//! assert!(record.contains(r#""portcullis.outcome":"completed""#));
//! assert!(record.contains(r#""order.id":42"#));
//! # }
//! ```
//!
//! # Outcomes
//!
//! | `portcullis.outcome` | meaning | `error.type` |
//! |---|---|---|
//! | `running` | the request is in progress; start records only | |
//! | `completed` | the whole response was handed to the server | the status code, if 500 or higher |
//! | `dropped` | the request was dropped before the response head was ready | `dropped` |
//! | `body_dropped` | the response was dropped before its body ended | `body_dropped` |
//! | `body_error` | the response body returned an error | `body_error` |
//! | `panicked` | the handler or the body panicked | `panic` |
//! | `failed` | the inner service returned an error | `service_error` |
//!
//! If a timeout layer is outside the access log, a timeout drops the request, exactly as a
//! disconnected client does. To record the timeout response, place the access log outside the
//! timeout layer.
//!
//! # Redaction
//!
//! A record contains:
//!
//! - no header, including `User-Agent`, unless
//!   [`request_headers`](AccessLogLayerBuilder::request_headers) or
//!   [`response_headers`](AccessLogLayerBuilder::response_headers) includes it; credential headers
//!   are never recorded;
//! - no query value, unless [`query_values`](AccessLogLayerBuilder::query_values) includes its
//!   parameter; this rule also applies to a recorded `Referer`, `Location` or `Content-Location`;
//! - no API key except its public id;
//! - no owner unless [`include_user_id`](AccessLogLayerBuilder::include_user_id) is called;
//! - only the name and port of `Host`, if they are well formed.
//!
//! Control characters and bidirectional formatting characters are escaped. Every string has a
//! maximum length.
//!
//! # Start records
//!
//! A record is written when its request ends. If the process is killed, the requests in progress
//! therefore have no record. Start records, which are off by default, show that such requests
//! arrived. Enable them for requests that [match a
//! predicate](AccessLogLayerBuilder::start_records), for
//! [streams](AccessLogLayerBuilder::start_records_for_streams), or for [long-running
//! requests](AccessLogLayerBuilder::start_records_after).
//!
//! # Trace ids
//!
//! A valid `traceparent` header sets `trace_id`, `parent_id` (the caller's span) and `trace_flags`.
//! The `span_id` of the request itself comes [from the application's
//! tracing](AccessLogLayerBuilder::trace_ids) or is
//! [created](AccessLogLayerBuilder::create_trace_ids). If neither is enabled, the record has no
//! `span_id`.
//!
//! # Bodies
//!
//! Response bytes are counted as the server reads them. The gRPC status is read from the trailers.
//! The type of the request body does not change, so any inner service accepts the request. The
//! record contains the declared length of the request body. An inner [`CountRequestBodyLayer`]
//! counts the bytes that are read.
//! [`GateLayer::count_request_bodies`](crate::GateLayer::count_request_bodies) adds this inner
//! layer.
//!
//! # Routes
//!
//! `http.route` is the route template, such as `/users/{id}`. It is never the path, and it is
//! absent if no route matched. If axum's `Router::layer` applies the access log, the access log
//! reads the route itself (feature `axum`). If the access log is outside the router, add an inner
//! [`RecordRouteLayer`] or extract [`RequestLog`] in the handler.

mod addr_options;
#[cfg(feature = "axum")]
mod axum;
pub mod body;
mod config;
mod emit;
pub mod future;
mod inside;
mod layer;
mod placement;
pub mod record;
mod service;
pub mod sinks;
#[cfg(all(feature = "api-key", feature = "cache", feature = "rate-limit"))]
mod stacking;
mod start_options;
mod store;
mod trace_options;

pub use self::emit::level::LogLevel;
pub use self::emit::observer::Observer;
pub use self::emit::stats::LogStats;
pub use self::inside::{CountRequestBodyLayer, RecordRoute, RecordRouteLayer};
pub use self::layer::{AccessLogLayer, AccessLogLayerBuilder};
pub use self::record::record::Record;
pub use self::record::request_log::RequestLog;
pub use self::record::schema::{FieldNaming, SCHEMA_VERSION};
pub use self::record::trust::Trust;
pub use self::service::AccessLog;
#[cfg(feature = "memory")]
pub(crate) use self::sinks::ring::Ring;
pub use self::sinks::sink::Sink;
pub use self::store::{LogQuery, LogStore, LogStream};
