//! Processes that share a store: a cache of its own before a handler in each of them.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use portcullis::{
    StoreFuture,
    cache::{Cache, CacheLayer, CacheLayerBuilder, CacheStore, PurgeMode, body::CacheBody},
    store::{
        MemoryStore, StoreKeys,
        backend::{
            CacheKey, Fence, Lease, LeaseToken, Lookup, PurgeTarget, Put, PutOutcome, Selection,
            StoredResponse, Touch,
        },
    },
};
use tokio::{sync::Semaphore, task::JoinHandle};
use tower::{Layer, Service, ServiceExt};

use crate::cache::cache::response_with;

use super::{get, hands::Hands, header, text};

/// Fields of a response that stays fresh for a minute.
pub(crate) const FRESH: &[(&str, &str)] = &[("cache-control", "max-age=60")];

/// A store that hands out leases, and that can stop to answer, or do so when it is let.
#[derive(Clone)]
pub(crate) struct Shared {
    store: Arc<MemoryStore>,
    pub(crate) leases: Arc<Mutex<Leases>>,
    pub(crate) hangs: Arc<AtomicBool>,
    pub(crate) is_late: Arc<AtomicBool>,
    pub(crate) may_reply: Arc<Semaphore>,
}

#[derive(Default)]
pub(crate) struct Leases {
    pub(crate) holder: Option<LeaseToken>,
    pub(crate) given: u64,
}

impl Shared {
    pub(crate) fn over(clock: &Hands) -> Self {
        Self {
            store: Arc::new(MemoryStore::with_clock(clock.clock.clone())),
            leases: Arc::default(),
            hangs: Arc::default(),
            is_late: Arc::default(),
            may_reply: Arc::new(Semaphore::new(0)),
        }
    }

    pub(crate) fn holder(&self) -> Option<LeaseToken> {
        self.leases.lock().unwrap().holder
    }

    /// Does what is asked at once, or when it is let, or never.
    fn reply<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&MemoryStore) -> StoreFuture<T> + Send + 'static,
    ) -> StoreFuture<T> {
        if self.hangs.load(Ordering::SeqCst) {
            return StoreFuture::pending(std::future::pending());
        }
        if !self.is_late.load(Ordering::SeqCst) {
            return ask(&self.store);
        }
        let (store, may_reply) = (Arc::clone(&self.store), Arc::clone(&self.may_reply));
        StoreFuture::pending(async move {
            may_reply.acquire().await.unwrap().forget();
            ask(&store).await
        })
    }
}

impl CacheStore for Shared {
    fn keys(&self) -> &StoreKeys {
        CacheStore::keys(&*self.store)
    }

    fn get(&self, key: &CacheKey, selection: &Selection<'_>) -> StoreFuture<Lookup> {
        let found = self.store.get(key, selection);
        self.reply(|_| found)
    }

    fn put(&self, put: Put) -> StoreFuture<PutOutcome> {
        self.reply(|store| store.put(put))
    }

    fn touch(&self, touch: Touch) -> StoreFuture<bool> {
        self.reply(|store| CacheStore::touch(store, touch))
    }

    fn is_purged_since(
        &self,
        key: &CacheKey,
        entry: &StoredResponse,
        fence: Fence,
    ) -> StoreFuture<bool> {
        let (key, entry) = (*key, entry.clone());
        self.reply(move |store| store.is_purged_since(&key, &entry, fence))
    }

    fn purge(&self, targets: &[PurgeTarget], mode: PurgeMode) -> StoreFuture<()> {
        let targets = targets.to_vec();
        self.reply(move |store| CacheStore::purge(store, &targets, mode))
    }

    fn lease(&self, _: &CacheKey, at_most: Duration) -> StoreFuture<Lease> {
        let leases = Arc::clone(&self.leases);
        self.reply(move |_| {
            let mut leases = leases.lock().unwrap();
            if leases.holder.is_some() {
                return StoreFuture::ready(Lease::Busy(at_most));
            }
            leases.given += 1;
            let token = LeaseToken(leases.given);
            leases.holder = Some(token);
            StoreFuture::ready(Lease::Leader(token))
        })
    }

    fn release(&self, _: &CacheKey, token: LeaseToken) -> StoreFuture<()> {
        let mut leases = self.leases.lock().unwrap();
        assert_eq!(leases.holder.take(), Some(token), "each gives back its own");
        StoreFuture::ready(())
    }
}

/// A handler that answers once it is let, and counts who came.
#[derive(Clone)]
pub(crate) struct Slow {
    calls: Arc<AtomicUsize>,
    let_through: Arc<Semaphore>,
    fields: &'static [(&'static str, &'static str)],
}

impl Service<Request<Full<Bytes>>> for Slow {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Full<Bytes>>) -> Self::Future {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let (let_through, fields) = (Arc::clone(&self.let_through), self.fields);
        Box::pin(async move {
            let_through.acquire().await.unwrap().forget();
            Ok(response_with(fields, format!("call {call}")))
        })
    }
}

/// A process: a cache of its own before a handler.
pub(crate) struct Process {
    service: Cache<Slow>,
    slow: Slow,
}

impl Process {
    pub(crate) fn new(hands: &Hands, store: &Shared) -> Self {
        Self::configured(hands, store, FRESH, |builder| builder)
    }

    pub(crate) fn configured(
        hands: &Hands,
        store: &Shared,
        fields: &'static [(&'static str, &'static str)],
        configure: impl FnOnce(CacheLayerBuilder) -> CacheLayerBuilder,
    ) -> Self {
        let builder = CacheLayer::secure(store.clone())
            .clock(hands.clock.clone())
            .runtime(hands.clone());
        let slow = Slow {
            calls: Arc::default(),
            let_through: Arc::new(Semaphore::new(0)),
            fields,
        };
        let layer = configure(builder).build().unwrap();
        Self {
            service: layer.layer(slow.clone()),
            slow,
        }
    }

    pub(crate) fn calls(&self) -> usize {
        self.slow.calls.load(Ordering::SeqCst)
    }

    /// Lets the handler respond from now on.
    pub(crate) fn open(&self) {
        self.slow.let_through.add_permits(100);
    }

    /// Lets the handler answer once.
    pub(crate) fn let_one_through(&self) {
        self.slow.let_through.add_permits(1);
    }

    pub(crate) fn sends(
        &self,
        request: Request<Full<Bytes>>,
    ) -> JoinHandle<Response<CacheBody<Full<Bytes>>>> {
        let asked = self.service.clone().oneshot(request);
        tokio::spawn(async { asked.await.unwrap() })
    }

    /// Asks, and returns the answer's status of the cache, and its body.
    pub(crate) fn asks(&self) -> JoinHandle<(String, String)> {
        let asked = self.service.clone().oneshot(get("/a"));
        tokio::spawn(async {
            let response = asked.await.unwrap();
            let status = header(response.headers(), "cache-status").unwrap_or_default();
            (status.to_owned(), text(response).await)
        })
    }
}
