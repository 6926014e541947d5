//! `tower-http`'s `TraceLayer`, with JSON lines to a sink, and without a subscriber.

use std::io;

use tower::Layer;
use tower_http::trace::{DefaultMakeSpan, DefaultOnResponse, HttpMakeClassifier, TraceLayer};
use tracing::{Level, Subscriber};

use crate::harness::{Case, Run};
use crate::workload::{Requests, drive, origin};

pub fn cases() -> Vec<Case> {
    let requests = Requests::default;
    let as_it_comes = TraceLayer::new_for_http();
    vec![
        Case::peer(
            "log/json",
            "tower-http-json",
            in_json(Level::INFO, drive(one_event().layer(origin()), requests())),
        ),
        Case::peer(
            "log/json",
            "tower-http-json-debug",
            in_json(
                Level::DEBUG,
                drive(as_it_comes.clone().layer(origin()), requests()),
            ),
        ),
        Case::peer(
            "log/disabled",
            "tower-http-off",
            drive(as_it_comes.layer(origin()), requests()),
        ),
    ]
}

/// A span and one event per request, the minimum of an access log.
pub fn one_event() -> TraceLayer<HttpMakeClassifier> {
    TraceLayer::new_for_http()
        .make_span_with(DefaultMakeSpan::new().level(Level::INFO))
        .on_response(DefaultOnResponse::new().level(Level::INFO))
}

/// Returns a subscriber that writes spans and events as JSON to a sink.
pub fn json_subscriber(level: Level) -> impl Subscriber + Send + Sync {
    tracing_subscriber::fmt()
        .json()
        .with_max_level(level)
        .with_writer(io::sink)
        .finish()
}

/// Installs the subscriber only while `run` runs, because it would affect the rows without a
/// subscriber.
pub fn in_json(level: Level, mut run: Run) -> Run {
    Box::new(move |iterations| {
        tracing::subscriber::with_default(json_subscriber(level), || run(iterations));
        tracing::callsite::rebuild_interest_cache();
    })
}
