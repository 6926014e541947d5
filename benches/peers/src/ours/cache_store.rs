//! Our cache store alone, called from within a lookup, because only the cache can call it.

use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response, header::CACHE_CONTROL};
use portcullis::{
    StoreFuture,
    cache::{CacheLayer, CacheStore, PurgeMode},
    store::{
        MemoryStore, StoreKeys,
        backend::{
            CacheKey, Found, Lookup, PurgeTarget, Put, PutOutcome, ReadyOrPending, Selection,
            StoredResponse, Touch,
        },
    },
};
use tower::{Layer, service_fn};

use crate::harness::{Case, Unit, Who};
use crate::workload::trace::{Hits, OBJECTS, STORE_BYTES, Trace, body_bytes, size_class};
use crate::workload::{answered, trace};

/// A cached response of each length, and the keys of all objects.
pub struct Objects {
    puts: Vec<Put>,
    keys: Vec<CacheKey>,
}

impl Objects {
    /// Creates them through the cache.
    fn made() -> Self {
        let probe = Probe::new(MemoryStore::new());
        let mut service =
            CacheLayer::new(probe.clone()).layer(service_fn(|request: Request<Body>| async move {
                let path = request.uri().path();
                let object: usize = path[1..].parse().expect("the path is a number");
                let mut response =
                    Response::new(Body::from(Bytes::from(vec![b'x'; body_bytes(object)])));
                let fresh = "max-age=3600".parse().expect("it is a value");
                response.headers_mut().insert(CACHE_CONTROL, fresh);
                Ok::<_, std::convert::Infallible>(response)
            }));
        let mut keys = Vec::with_capacity(OBJECTS);
        let mut puts: Vec<Option<Put>> = vec![None; 8];
        for object in 0..OBJECTS {
            let request = Request::builder().uri(format!("/{object}"));
            let request = request.body(Body::empty()).expect("it is a request");
            answered(&mut service, request);
            let put = probe.put.lock().expect("no holder panics").take();
            let put = put.expect("each response is stored");
            keys.push(put.key);
            puts[size_class(object)].get_or_insert(put);
        }
        let puts = puts.into_iter().map(|put| put.expect("each length occurs"));
        Self {
            puts: puts.collect(),
            keys,
        }
    }

    /// Returns the cached response of an object, and its key.
    pub fn object(&self, object: usize) -> (&[u8; 32], &Arc<StoredResponse>) {
        let put = &self.puts[size_class(object)];
        (self.keys[object].full().as_bytes(), &put.entry)
    }
}

/// Returns the weight of an object, the same for all stores.
pub fn weight(entry: &StoredResponse) -> usize {
    entry.weight_bytes() + 640
}

thread_local! {
    static OBJECTS_MADE: Arc<Objects> = Arc::new(Objects::made());
}

/// Returns the objects of all stores.
pub fn objects() -> Arc<Objects> {
    OBJECTS_MADE.with(Arc::clone)
}

pub fn cases() -> Vec<Case> {
    let store = MemoryStore::builder().max_cache_bytes(STORE_BYTES);
    let store = store.build().expect("the bound is right");
    let probe = Probe::new(store);
    let mut service = CacheLayer::new(probe).layer(service_fn(|_: Request<Body>| async {
        Ok::<_, std::convert::Infallible>(Response::new(Body::empty()))
    }));
    let hits = Hits::default();
    let work = Work {
        objects: objects(),
        trace: Trace::new(),
        hits: hits.clone(),
    };
    WORK.set(Some(work));
    vec![
        Case::ours(
            "store/zipf",
            Box::new(move |accesses| {
                ASKED.set(accesses);
                answered(&mut service, Request::new(Body::empty()));
            }),
        )
        .whole(),
        Case::gauge("store/zipf-hits", Who::Ours, Unit::Share, move || {
            hits.share()
        }),
    ]
}

/// The work within a lookup.
struct Work {
    objects: Arc<Objects>,
    trace: Trace,
    hits: Hits,
}

thread_local! {
    static WORK: RefCell<Option<Work>> = const { RefCell::new(None) };
    static ASKED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// A store that records the last response that it received, and calls another store a given number
/// of times in each lookup.
#[derive(Clone)]
struct Probe {
    store: MemoryStore,
    put: Arc<Mutex<Option<Put>>>,
}

impl Probe {
    fn new(store: MemoryStore) -> Self {
        let put = Arc::default();
        Self { store, put }
    }

    fn access(&self, work: &mut Work, selection: &Selection<'_>) {
        let object = work.trace.next();
        let key = &work.objects.keys[object];
        let ReadyOrPending::Ready(Ok(lookup)) = self.store.get(key, selection).into_ready() else {
            panic!("a store in memory is always ready");
        };
        let is_found = matches!(lookup.found, Found::Entry { .. });
        work.hits.count(is_found);
        if !is_found {
            let put = &work.objects.puts[trace::size_class(object)];
            let (entry, fence) = (put.entry.clone(), lookup.fence);
            let put = Put::new(*key, entry, fence, put.retain).max_variants(put.max_variants);
            drop(self.store.put(put));
        }
    }
}

impl CacheStore for Probe {
    fn keys(&self) -> &StoreKeys {
        CacheStore::keys(&self.store)
    }

    fn get(&self, key: &CacheKey, selection: &Selection<'_>) -> StoreFuture<Lookup> {
        let accesses = ASKED.take();
        if accesses > 0 {
            WORK.with_borrow_mut(|work| {
                let work = work.as_mut().expect("the work is set");
                (0..accesses).for_each(|_| self.access(work, selection));
            });
        }
        self.store.get(key, selection)
    }

    fn put(&self, put: Put) -> StoreFuture<PutOutcome> {
        *self.put.lock().expect("no holder panics") = Some(put);
        StoreFuture::ready(PutOutcome::Stored)
    }

    fn touch(&self, touch: Touch) -> StoreFuture<bool> {
        self.store.touch(touch)
    }

    fn purge(&self, targets: &[PurgeTarget], mode: PurgeMode) -> StoreFuture<()> {
        CacheStore::purge(&self.store, targets, mode)
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Probe")
    }
}
