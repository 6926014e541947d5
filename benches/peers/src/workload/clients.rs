//! The clients that take turns, and their keys.

use std::sync::LazyLock;

/// The number of clients that take turns.
pub const CLIENTS: usize = 1024;

/// Returns a key of 24 characters per client. All rows use the same allocations.
pub fn api_keys() -> &'static [String] {
    static KEYS: LazyLock<Vec<String>> = LazyLock::new(|| (0..CLIENTS).map(key).collect());
    &KEYS
}

/// Returns the client that follows `client`. An odd stride visits all clients, and a long one
/// avoids neighbors in memory.
pub fn next_client(client: usize) -> usize {
    (client + 389) % CLIENTS
}

/// Returns a key of 24 characters.
pub fn key(client: usize) -> String {
    format!("key_{client:020}")
}
