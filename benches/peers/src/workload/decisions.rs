//! Decisions without HTTP: three kinds of keys, four numbers of keys, one and two threads.

use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, LazyLock};

use super::clients::key;
use crate::harness::{Case, Run, Who, allocator};

/// The number of keys for the measurement of bytes per key.
const MANY: usize = 1_000_000;

const COUNTS: [(usize, &str); 4] = [(1, "1"), (1_000, "1k"), (100_000, "100k"), (MANY, "1m")];

/// A kind of key.
pub trait Key: Clone + Hash + Eq + Send + Sync + 'static {
    const NAME: &'static str;

    /// Returns a million keys. All rows use the same allocations.
    fn all() -> &'static [Self];
}

impl Key for String {
    const NAME: &'static str = "string";

    fn all() -> &'static [Self] {
        static KEYS: LazyLock<Vec<String>> = LazyLock::new(|| (0..MANY).map(key).collect());
        &KEYS
    }
}

impl Key for IpAddr {
    const NAME: &'static str = "ip";

    fn all() -> &'static [Self] {
        static KEYS: LazyLock<Vec<IpAddr>> = LazyLock::new(|| {
            let addresses =
                (0..MANY as u32).map(|client| Ipv4Addr::from_bits(0x2000_0000 + client));
            addresses.map(IpAddr::V4).collect()
        });
        &KEYS
    }
}

impl Key for u64 {
    const NAME: &'static str = "u64";

    fn all() -> &'static [Self] {
        static KEYS: LazyLock<Vec<u64>> = LazyLock::new(|| (0..MANY as u64).collect());
        &KEYS
    }
}

/// Returns the rows of a limiter with keys of this kind.
///
/// Each key is used once before the measurement, so that all are known. The limit denies nothing,
/// and its refill is so slow that no state expires.
pub fn decisions<K, L, D>(who: Who, limiter: impl Fn() -> L, decide: D) -> Vec<Case>
where
    K: Key,
    L: Send + Sync + 'static,
    D: Fn(&L, &K) + Copy + Send + Sync + 'static,
{
    let cases = COUNTS.into_iter().flat_map(|(count, label)| {
        let keys = &K::all()[..count];
        let limiter = Arc::new(limiter());
        keys.iter().for_each(|key| decide(&limiter, key));
        let name = |threads: &str| format!("decision/{}/{label}/{threads}", K::NAME).leak();
        let (alone, shared) = (Arc::clone(&limiter), limiter);
        let mut at = 0;
        let one: Run = Box::new(move |times| run(keys, &mut at, times, |key| decide(&alone, key)));
        let two = beside_another(keys, move |key| decide(&shared, key));
        [
            Case::timed(name("1t"), who, one),
            Case::timed(name("2t"), who, two),
        ]
    });
    cases.collect()
}

/// Returns the bytes per key of a limiter with a million keys.
pub fn bytes_per_key<L>(limiter: impl FnOnce() -> L, take: impl Fn(&L, &String)) -> f64 {
    let keys = String::all();
    let (_limiter, bytes) = allocator::live_bytes(|| {
        let limiter = limiter();
        keys.iter().for_each(|key| take(&limiter, &key.clone()));
        limiter
    });
    bytes as f64 / keys.len() as f64
}

fn run<K>(keys: &[K], at: &mut usize, times: u64, decide: impl Fn(&K)) {
    for _ in 0..times {
        // Coprime to all counts: every key has its turn, far from the previous one in memory.
        *at = (*at + 618_033) % keys.len();
        decide(&keys[*at]);
    }
}

/// The same work while another thread does it on the same keys. Only this thread is measured.
fn beside_another<K: Key>(keys: &'static [K], decide: impl Fn(&K) + Sync + 'static) -> Run {
    let mut at = 0;
    Box::new(move |times| {
        let (both, done) = (Barrier::new(2), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut at = keys.len() / 2;
                both.wait();
                while !done.load(Ordering::Relaxed) {
                    run(keys, &mut at, 16, &decide);
                }
            });
            both.wait();
            run(keys, &mut at, times, &decide);
            done.store(true, Ordering::Relaxed);
        });
    })
}
