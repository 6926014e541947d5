//! The clients that take turns, and the keys by which they are known.

use std::sync::LazyLock;

use crate::harness::{Run, allocator};

/// How many clients take turns.
pub const CLIENTS: usize = 1024;

/// How many keys a store is filled with, to learn what one of them takes.
const MANY: usize = 1_000_000;

/// Returns a key of 24 characters for each client; all rows use the same ones, where they lie.
pub fn api_keys() -> &'static [String] {
    static KEYS: LazyLock<Vec<String>> = LazyLock::new(|| (0..CLIENTS).map(key).collect());
    &KEYS
}

/// Returns whose turn comes after `client`'s: an odd stride visits all of them, a long one keeps
/// the next from being the next in memory.
pub fn next_client(client: usize) -> usize {
    (client + 389) % CLIENTS
}

/// Returns the work of a row that decides on a key, another client's each time.
pub fn decide_keys(mut decide: impl FnMut(&String) + 'static) -> Run {
    let keys = api_keys();
    let mut client = 0;
    Box::new(move |iterations| {
        for _ in 0..iterations {
            client = next_client(client);
            decide(&keys[client]);
        }
    })
}

/// Returns how many bytes a limiter holds for each of a million keys.
pub fn bytes_per_key<L>(limiter: impl FnOnce() -> L, mut take: impl FnMut(&L, &String)) -> f64 {
    let (_limiter, bytes) = allocator::live_bytes(|| {
        let limiter = limiter();
        (0..MANY).map(key).for_each(|key| take(&limiter, &key));
        limiter
    });
    bytes as f64 / MANY as f64
}

fn key(client: usize) -> String {
    format!("key_{client:020}")
}
