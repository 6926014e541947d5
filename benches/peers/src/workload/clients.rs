//! The clients that take turns, and the keys by which they are known.

use std::sync::LazyLock;

/// How many clients take turns.
pub const CLIENTS: usize = 1024;

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

/// Returns a key of 24 characters.
pub fn key(client: usize) -> String {
    format!("key_{client:020}")
}
