//! Notices of misconfiguration as `tracing` events, where a subscriber receives them.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use portcullis::{ClientAddrResolver, PeerAddr};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use crate::support::alone;

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
    let name = "notices_tracing::notice_is_an_event_and_not_on_stderr_with_a_subscriber";
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
