//! Our access log, beside the peers.

use std::io;

use portcullis::access_log::{AccessLogLayer, JsonLines, Level, TracingSink};
use tower::Layer;

use crate::harness::Case;
use crate::workload::{Requests, drive, origin};

pub fn cases() -> Vec<Case> {
    let requests = Requests::default;
    // The default: all fields, the query redacted, a name for the request.
    let json = AccessLogLayer::json_lines(io::sink());
    // Records go to `tracing`, and nobody listens: what the peer's row is, too.
    let disabled = AccessLogLayer::new(TracingSink);
    // All that a record costs but for writing it.
    let unwritten = AccessLogLayer::builder()
        .sink(JsonLines::writer(io::sink()))
        .min_level(Level::Error)
        .build()
        .expect("nothing is wrong with it");
    vec![
        Case::ours("log/json", drive(json.layer(origin()), requests())),
        Case::ours("log/disabled", drive(disabled.layer(origin()), requests())),
        Case::ours("log/unwritten", drive(unwritten.layer(origin()), requests())),
    ]
}
