//! Middleware that keeps exactly one record of each request.
//!
//! The record is emitted once, when the response's body has ended, when the client has left, or
//! when the handler has panicked, and holds what every layer of this crate did with the request.
//!
//! ```
//! # use std::convert::Infallible;
//! use http::{Request, Response, StatusCode};
//! use portcullis::access_log::{AccessLogLayer, RequestLog};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! // `AccessLogLayer::stderr()` is all that a server needs.
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
//! # How a request ends
//!
//! | `portcullis.outcome` | when | `error.type` |
//! |---|---|---|
//! | `running` | the request has not ended: in a start record alone | |
//! | `completed` | the whole response was handed to the server | the status, from 500 on |
//! | `dropped` | the request was given up before a head was made | `dropped` |
//! | `body_dropped` | the response was given up before its body had ended | `body_dropped` |
//! | `body_error` | the response's body failed | `body_error` |
//! | `panicked` | the handler or the body panicked | `panic` |
//! | `failed` | the inner service returned an error | `service_error` |
//!
//! A timeout outside of the access log drops the request as a client does that leaves: put the
//! access log outside of the timeout, and the record has the timeout's response.
//!
//! # What is not written
//!
//! No header, `User-Agent` included, unless [it is asked for](AccessLogLayerBuilder::request_headers);
//! one that bears credentials cannot be. No value of the query unless [its parameter is
//! named](AccessLogLayerBuilder::query_values). No key but its public id, and who owns it only [by
//! choice](AccessLogLayerBuilder::include_user_id). Of `Host` the name and the port, if they are well formed. Control characters and those
//! that turn the direction of text are escaped, and every text has a bounded length.
//!
//! # Start records
//!
//! A record is written when its request has ended, so a process that is killed leaves none of the requests
//! that were running. Start records remain: of requests that
//! [a predicate chooses](AccessLogLayerBuilder::start_records), of
//! [streams](AccessLogLayerBuilder::start_records_for_streams), or of requests that
//! [run for long](AccessLogLayerBuilder::start_records_after). Off by default.
//!
//! # Trace ids
//!
//! A valid `traceparent` gives the record `trace_id`, `parent_id` (the caller's span) and `trace_flags`. The
//! request's own `span_id` comes [from the tracing of the application](AccessLogLayerBuilder::trace_ids), or it
//! is [created](AccessLogLayerBuilder::create_trace_ids). Without either there is none.
//!
//! # Bodies
//!
//! The response's bytes are counted as the server takes them, and gRPC's status is read from its
//! trailers. A request's body keeps its type, so that any inner service can take it, and its length
//! is written as the request declares it; a [`CountRequestBodyLayer`] inside counts what is really
//! read, and [`Gate::count_request_bodies`](crate::Gate::count_request_bodies) adds one.
//!
//! # Routes
//!
//! `http.route` is the route's template, `/users/{id}`, and absent where none matched: never the
//! path. Applied by axum's `Router::layer` (feature `axum`) the access log finds it; standing
//! outside of the router it needs a [`RecordRouteLayer`] inside, or a handler that asks for its
//! [`RequestLog`].

#[cfg(feature = "axum")]
mod axum;
pub mod body;
mod config;
mod emit;
pub mod future;
mod inside;
mod layer;
mod placement;
mod record;
mod service;
pub mod sinks;
#[cfg(all(feature = "api-key", feature = "cache", feature = "rate-limit"))]
mod stacking;
mod start_options;
mod store;
mod trace_options;

pub use self::emit::drop_counts::DropCounts;
pub use self::emit::level::LogLevel;
pub use self::emit::observer::Observer;
pub use self::emit::stats::LogStats;
pub use self::inside::{CountRequestBody, CountRequestBodyLayer, RecordRoute, RecordRouteLayer};
pub use self::layer::{AccessLogLayer, AccessLogLayerBuilder};
pub use self::record::record::{Record, RequestOutcome, User};
pub use self::record::request_log::RequestLog;
pub use self::record::schema::{FieldNaming, SCHEMA_VERSION};
pub use self::record::trace_context::TraceContext;
pub use self::record::trust::Trust;
pub use self::service::AccessLog;
#[cfg(feature = "memory")]
pub(crate) use self::sinks::ring::Ring;
pub use self::sinks::sink::Sink;
pub use self::store::{LogEntry, LogQuery, LogStore, LogStream};
