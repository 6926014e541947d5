//! A service's process: a cache over a connection of its own, and a handler that counts.

use std::{
    convert::Infallible,
    future::ready,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::Full;
use portcullis::cache::{CacheLayer, Purge, PurgeMode};
use tower::{Layer, ServiceExt, service_fn};

use super::{get, redis::Server, text};

/// The total number of responses.
static MADE: AtomicUsize = AtomicUsize::new(0);

/// A service's process. A clone is the same one.
#[derive(Clone)]
pub(crate) struct Instance {
    layer: CacheLayer,
    fields: HeaderMap,
    calls: Arc<AtomicUsize>,
}

impl Instance {
    /// Has a handler that answers with these fields.
    pub(crate) fn new(layer: CacheLayer, fields: &[(&'static str, &'static str)]) -> Self {
        let fields = fields.iter().map(|(name, value)| {
            let value = HeaderValue::from_static(value);
            (HeaderName::from_static(name), value)
        });
        Self {
            layer,
            fields: fields.collect(),
            calls: Arc::default(),
        }
    }

    pub(crate) async fn purge(&self, what: Purge, mode: PurgeMode) {
        self.layer.purger().purge([what], mode).await.unwrap();
    }

    pub(crate) async fn get(&self, path: &str) -> String {
        self.send(get(&format!("http://acme.test{path}"))).await
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> String {
        let (calls, fields) = (Arc::clone(&self.calls), self.fields.clone());
        let handler = service_fn(move |request: Request<Full<Bytes>>| {
            calls.fetch_add(1, Ordering::SeqCst);
            // No two responses are the same, on any instance.
            let call = MADE.fetch_add(1, Ordering::SeqCst);
            let accept = request.headers().get("accept");
            let body = format!("{} {accept:?} made {call}", request.uri().path());
            let mut response = Response::new(Full::<Bytes>::from(body));
            response.headers_mut().clone_from(&fields);
            ready(Ok::<_, Infallible>(response))
        });
        let response = self.layer.layer(handler).oneshot(request).await;
        text(response.unwrap()).await
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

/// Returns the number of script calls to the server.
pub(crate) fn commands(server: &Server) -> u64 {
    server.calls_of("evalsha") + server.calls_of("eval")
}

/// Waits until no call is in progress.
pub(crate) async fn settle(server: &Server) {
    loop {
        let before = commands(server);
        tokio::time::sleep(Duration::from_millis(10)).await;
        if commands(server) == before {
            return;
        }
    }
}
