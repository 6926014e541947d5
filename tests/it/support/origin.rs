//! A handler that responds when it is let, or fails, and the cache before it.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Full;
use portcullis::{
    cache::{Cache, CacheLayer, CacheLayerBuilder, CachePurger},
    store::MemoryStore,
};
use tokio::{sync::Semaphore, task::JoinHandle};
use tower::{Layer, Service, ServiceExt};

use crate::support::{
    hands::{Hands, let_all_run},
    header, text,
};

type Respond = dyn Fn(&Request<Full<Bytes>>, usize) -> Result<Response<Full<Bytes>>, &'static str>
    + Send
    + Sync;

/// A handler whose calls wait until they are let through. Closed at first.
#[derive(Clone)]
pub(crate) struct Origin {
    respond: Arc<Mutex<Arc<Respond>>>,
    let_through: Arc<Semaphore>,
    gates: Arc<Mutex<Vec<Arc<Semaphore>>>>,
    calls: Arc<AtomicUsize>,
    asked: Arc<Mutex<Vec<Request<()>>>>,
}

/// The response of an origin, or the message with which its connection fails.
type OriginResult = Result<Response<Full<Bytes>>, &'static str>;

impl Origin {
    pub(crate) fn new(
        respond: impl Fn(&Request<Full<Bytes>>, usize) -> OriginResult + Send + Sync + 'static,
    ) -> Self {
        Self {
            respond: Arc::new(Mutex::new(Arc::new(respond))),
            let_through: Arc::new(Semaphore::new(0)),
            gates: Arc::default(),
            calls: Arc::default(),
            asked: Arc::default(),
        }
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// Returns the requests that have come since this was asked last.
    pub(crate) fn asked(&self) -> Vec<Request<()>> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    pub(crate) fn let_through(&self, calls: usize) {
        self.let_through.add_permits(calls);
    }

    /// Lets one call through, by its number from 1, before those that have come earlier.
    pub(crate) fn let_through_call(&self, number: usize) {
        self.gates.lock().unwrap()[number - 1].add_permits(1);
    }

    pub(crate) fn open(&self) {
        self.let_through.add_permits(Semaphore::MAX_PERMITS / 2);
    }

    pub(crate) fn close(&self) {
        self.let_through.forget_permits(Semaphore::MAX_PERMITS);
    }

    pub(crate) fn responds(
        &self,
        respond: impl Fn(&Request<Full<Bytes>>, usize) -> OriginResult + Send + Sync + 'static,
    ) {
        *self.respond.lock().unwrap() = Arc::new(respond);
    }
}

impl Service<Request<Full<Bytes>>> for Origin {
    type Response = Response<Full<Bytes>>;
    type Error = &'static str;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Full<Bytes>>, &'static str>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let origin = self.clone();
        let mut seen = Request::new(());
        *seen.method_mut() = request.method().clone();
        *seen.uri_mut() = request.uri().clone();
        *seen.headers_mut() = request.headers().clone();
        self.asked.lock().unwrap().push(seen);
        let gate = Arc::new(Semaphore::new(0));
        self.gates.lock().unwrap().push(Arc::clone(&gate));
        Box::pin(async move {
            let permit = tokio::select! {
                permit = origin.let_through.acquire() => permit,
                permit = gate.acquire() => permit,
            };
            permit.unwrap().forget();
            let respond = Arc::clone(&*origin.respond.lock().unwrap());
            respond(&request, call)
        })
    }
}

/// A cache before an [`Origin`], on a clock that is moved by hand.
pub(crate) struct Site {
    pub(crate) hands: Hands,
    pub(crate) origin: Origin,
    pub(crate) service: Cache<Origin>,
    pub(crate) purger: CachePurger,
}

/// A response as its client received it.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Received {
    pub(crate) fn cache_status(&self) -> &str {
        header(&self.headers, "cache-status").unwrap_or_default()
    }

    pub(crate) fn is_hit(&self) -> bool {
        self.cache_status().starts_with("portcullis; hit")
    }
}

impl Site {
    pub(crate) fn secure(
        origin: &Origin,
        configure: impl FnOnce(CacheLayerBuilder) -> CacheLayerBuilder,
    ) -> Self {
        Self::built(origin, CacheLayer::secure, configure)
    }

    pub(crate) fn rfc(origin: &Origin) -> Self {
        Self::built(origin, CacheLayer::rfc, |builder| builder)
    }

    pub(crate) fn built(
        origin: &Origin,
        profile: impl FnOnce(MemoryStore) -> CacheLayerBuilder,
        configure: impl FnOnce(CacheLayerBuilder) -> CacheLayerBuilder,
    ) -> Self {
        let hands = Hands::default();
        let builder = profile(MemoryStore::with_clock(hands.clock.clone()));
        let builder = builder.clock(hands.clock.clone()).runtime(hands.clone());
        Self::over(origin, hands, configure(builder))
    }

    /// A site over any store.
    pub(crate) fn over(origin: &Origin, hands: Hands, builder: CacheLayerBuilder) -> Self {
        let layer = builder.build().unwrap();
        Self {
            service: layer.layer(origin.clone()),
            purger: layer.purger(),
            origin: origin.clone(),
            hands,
        }
    }

    /// Sends a request, whose response is read to its end.
    pub(crate) fn start(
        &self,
        request: Request<Full<Bytes>>,
    ) -> JoinHandle<Result<Received, &'static str>> {
        let service = self.service.clone();
        tokio::spawn(async move {
            let response = service.oneshot(request).await?;
            Ok(Received {
                status: response.status(),
                headers: response.headers().clone(),
                body: text(response).await,
            })
        })
    }

    /// Sends requests at once, and lets each come as far as it does.
    pub(crate) async fn start_all(
        &self,
        requests: impl IntoIterator<Item = Request<Full<Bytes>>>,
    ) -> Vec<JoinHandle<Result<Received, &'static str>>> {
        let started = requests.into_iter().map(|request| self.start(request));
        let started = started.collect();
        let_all_run().await;
        started
    }

    pub(crate) async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Received, &'static str> {
        self.start(request).await.unwrap()
    }

    pub(crate) async fn advance_secs(&self, secs: u64) {
        self.hands.advance(Duration::from_secs(secs)).await;
    }
}

/// Waits for all responses.
pub(crate) async fn all(
    started: Vec<JoinHandle<Result<Received, &'static str>>>,
) -> Vec<Result<Received, &'static str>> {
    let mut received = Vec::new();
    for started in started {
        received.push(started.await.unwrap());
    }
    received
}
