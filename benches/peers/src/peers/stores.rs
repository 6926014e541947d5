//! General caches as cache stores, each with our responses, our weights and one shard.

use std::sync::Arc;

use portcullis::store::backend::StoredResponse;

use crate::harness::{Case, Unit, Who};
use crate::ours::cache_store::{objects, weight};
use crate::workload::trace::{Hits, STORE_BYTES, Trace};

type Key = [u8; 32];
type Value = Arc<StoredResponse>;

pub fn cases() -> Vec<Case> {
    let moka = moka::sync::Cache::builder()
        .max_capacity(STORE_BYTES)
        .weigher(|_: &Key, value: &Value| weight(value) as u32)
        .build();
    let moka_put = moka.clone();
    let quick = Arc::new(quick_cache::sync::Cache::with_options(
        quick_cache::OptionsBuilder::new()
            .shards(1)
            .estimated_items_capacity(1_024)
            .weight_capacity(STORE_BYTES)
            .build()
            .expect("the configuration is complete"),
        Weigh,
        quick_cache::DefaultHashBuilder::default(),
        quick_cache::sync::DefaultLifecycle::default(),
    ));
    let quick_put = Arc::clone(&quick);
    let foyer: foyer_memory::Cache<Key, Value> =
        foyer_memory::CacheBuilder::new(STORE_BYTES as usize)
            .with_shards(1)
            .with_eviction_config(foyer_memory::S3FifoConfig::default())
            .with_weighter(|_: &Key, value: &Value| weight(value))
            .build();
    let foyer_put = foyer.clone();
    [
        rows(
            "moka",
            move |key| moka.get(key).is_some(),
            move |key, value| moka_put.insert(key, value),
        ),
        rows(
            "quick_cache",
            move |key| quick.get(key).is_some(),
            move |key, value| quick_put.insert(key, value),
        ),
        rows(
            "foyer",
            move |key| foyer.get(key).is_some(),
            move |key, value| drop(foyer_put.insert(key, value)),
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn rows(
    name: &'static str,
    get: impl Fn(&Key) -> bool + 'static,
    put: impl Fn(Key, Value) + 'static,
) -> [Case; 2] {
    let (objects, hits, mut trace) = (objects(), Hits::default(), Trace::new());
    let counted = hits.clone();
    let run = move |accesses| {
        for _ in 0..accesses {
            let (key, value) = objects.object(trace.next());
            let is_found = get(key);
            counted.count(is_found);
            if !is_found {
                put(*key, Arc::clone(value));
            }
        }
    };
    [
        Case::peer("store/zipf", name, Box::new(run)).whole(),
        Case::gauge("store/zipf-hits", Who::Peer(name), Unit::Share, move || {
            hits.share()
        }),
    ]
}

#[derive(Clone)]
struct Weigh;

impl quick_cache::Weighter<Key, Value> for Weigh {
    fn weight(&self, _: &Key, value: &Value) -> u64 {
        weight(value) as u64
    }
}
