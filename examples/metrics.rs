//! Prometheus metrics in addition to the access log.
//!
//! ```text
//! cargo run --example metrics --features axum,metrics
//! curl http://127.0.0.1:3001/hello/world
//! curl http://127.0.0.1:3001/metrics
//! ```
//!
//! The service listens on 127.0.0.1:3001, or on `PORTCULLIS_ADDR`. `examples/dashboards` has a
//! Grafana dashboard and Prometheus alerts. On SIGINT (Ctrl-C) and SIGTERM it finishes running
//! requests, within 10 s.

use std::{env, error::Error, net::SocketAddr};

use axum::{Router, extract::Path, routing::get};
use metrics_exporter_prometheus::PrometheusBuilder;
use portcullis::{
    access_log::{
        AccessLogLayer, RequestLog,
        sinks::{JsonLines, Metrics},
    },
    shutdown::Shutdown,
};
use tokio::net::TcpListener;

/// The bucket bounds that OpenTelemetry recommends for request durations, in seconds.
const SECONDS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let prometheus = PrometheusBuilder::new()
        .set_buckets(&SECONDS)?
        .install_recorder()?;
    let access_log = AccessLogLayer::builder()
        .sink(JsonLines::stderr())
        .observer(Metrics::new())
        .build()?;

    let app = Router::new()
        .route("/hello/{name}", get(hello))
        .layer(access_log)
        // Outside the access log, so that scrapes are neither recorded nor counted.
        .route(
            "/metrics",
            get(async move || {
                prometheus.run_upkeep();
                prometheus.render()
            }),
        );

    let addr = env::var("PORTCULLIS_ADDR").unwrap_or_else(|_| "127.0.0.1:3001".to_owned());
    let shutdown = Shutdown::on_signal()?;
    let listener = TcpListener::bind(&addr).await?;
    println!(
        "curl http://{0}/hello/world; curl http://{0}/metrics",
        listener.local_addr()?
    );
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    let server = axum::serve(listener, service).with_graceful_shutdown(shutdown.requested());
    shutdown.drain(server).await.transpose()?;
    Ok(())
}

async fn hello(log: RequestLog, Path(name): Path<String>) -> String {
    log.set("greeted", name.clone());
    format!("hello {name}")
}
