//! Notices of misconfiguration as `tracing` events, where a subscriber receives them.

use std::{
    convert::Infallible,
    fmt,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use portcullis::{
    ClientAddrResolver, PeerAddr,
    access_log::{
        AccessLogLayer, LogLevel,
        sinks::{RecentRecords, TracingSink},
    },
};
use tower::{Layer, ServiceExt, service_fn};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use crate::support::{alone, get};

/// Stores the messages of the crate's events.
#[derive(Clone, Default)]
struct Messages(Arc<Mutex<Vec<String>>>);

impl Subscriber for Messages {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "portcullis"
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

impl Visit for Messages {
    fn record_debug(&mut self, _: &Field, value: &dyn fmt::Debug) {
        self.0.lock().unwrap().push(format!("{value:?}"));
    }
}

#[test]
fn notice_is_an_event_and_not_on_stderr_with_a_subscriber() {
    let name = "core::notices_tracing::notice_is_an_event_and_not_on_stderr_with_a_subscriber";
    // Other tests emit the same notice, once for the whole process.
    if !alone::is_child() {
        let output = alone::run(name);
        return assert!(alone::notices(&output).is_empty(), "{output:?}");
    }
    let messages = Messages::default();
    let _guard = tracing::subscriber::set_default(messages.clone());
    let mut request = http::Request::new(());
    let peer = PeerAddr(([10, 0, 0, 1], 443).into());
    request.extensions_mut().insert(peer);
    let forwarded = "203.0.113.9".parse().unwrap();
    request.headers_mut().insert("x-forwarded-for", forwarded);
    for _ in 0..3 {
        let resolver = ClientAddrResolver::default();
        let resolved = resolver.resolve(request.extensions(), request.headers());
        assert_eq!(resolved.unwrap().to_string(), "10.0.0.1");
    }
    assert_eq!(messages.0.lock().unwrap().len(), 1, "{:?}", messages.0);
}

#[test]
fn tracing_sink_without_a_subscriber_is_one_notice_with_its_fix() {
    let name =
        "core::notices_tracing::tracing_sink_without_a_subscriber_is_one_notice_with_its_fix";
    if alone::is_child() {
        return send_requests(|| AccessLogLayer::new(TracingSink));
    }
    let output = alone::run(name);
    let notices = alone::notices(&output);
    let ours: Vec<_> = notices
        .iter()
        .filter(|it| it.contains("TracingSink"))
        .collect();
    assert_eq!(ours.len(), 1, "{notices:#?}");
    assert!(
        ours[0].contains("tracing_subscriber::fmt().init()"),
        "{ours:?}"
    );
}

#[test]
fn span_without_a_subscriber_is_one_notice_with_its_fix() {
    let name = "core::notices_tracing::span_without_a_subscriber_is_one_notice_with_its_fix";
    if alone::is_child() {
        return send_requests(|| {
            let builder = AccessLogLayer::builder().sink(RecentRecords::default());
            builder.span(LogLevel::Info).build().unwrap()
        });
    }
    let output = alone::run(name);
    let notices = alone::notices(&output);
    let ours = notices
        .iter()
        .filter(|it| it.contains("AccessLogLayerBuilder::span"));
    assert_eq!(ours.count(), 1, "{notices:#?}");
}

#[test]
fn tracing_sink_whose_subscriber_disables_records_emits_no_notice() {
    let name =
        "core::notices_tracing::tracing_sink_whose_subscriber_disables_records_emits_no_notice";
    if !alone::is_child() {
        let output = alone::run(name);
        return assert!(alone::notices(&output).is_empty(), "{output:?}");
    }
    let messages = Messages::default();
    let _guard = tracing::subscriber::set_default(messages.clone());
    send_requests(|| AccessLogLayer::new(TracingSink));
    let messages = messages.0.lock().unwrap();
    let ours = messages
        .iter()
        .filter(|message| message.contains("TracingSink"));
    assert_eq!(ours.count(), 0, "{messages:?}");
}

/// Sends a few requests through two layers.
fn send_requests(layer: impl Fn() -> AccessLogLayer) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    for _ in 0..2 {
        let app = layer().layer(service_fn(async |_: Request<Full<Bytes>>| {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }));
        for _ in 0..3 {
            runtime.block_on(app.clone().oneshot(get("/"))).unwrap();
        }
    }
}
