//! Our access log, beside the peers.

use std::io;

use portcullis::access_log::{AccessLogLayer, Level};
use tower::Layer;

use crate::harness::Case;
use crate::workload::{Requests, drive, origin};

pub fn cases() -> Vec<Case> {
    let disabled = AccessLogLayer::builder()
        .sink(portcullis::access_log::JsonLines::writer(io::sink()))
        .level(|_| Level::Debug)
        .min_level(Level::Info)
        .build()
        .expect("the options are valid");
    vec![
        Case::ours(
            "log/json",
            drive(
                AccessLogLayer::json_lines(io::sink()).layer(origin()),
                Requests::default(),
            ),
        ),
        Case::ours(
            "log/disabled",
            drive(disabled.layer(origin()), Requests::default()),
        ),
    ]
}
