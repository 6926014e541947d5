//! Memory and accuracy of a limiter under a flood of ten million new keys.
//!
//! ```text
//! cargo bench --bench flood
//! ```
#![allow(
    clippy::disallowed_methods,
    reason = "spawns threads and measures time"
)]
#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::{
    fs,
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Instant,
};

use portcullis::{
    rate_limit::{Policy, Quota, RateLimitStore},
    store::{
        MemoryStore,
        backend::{Charge, ReadyOrPending, StoreKey},
    },
};

/// The number of keys, each used once.
const KEYS: u64 = 10_000_000;

/// The number of threads that share the keys.
const THREADS: u64 = 2;

/// The number of keys of a thread between two checks of the watched key.
const CHECK_INTERVAL: u64 = 1_000;

/// The maximum growth of the process.
const MAX_GROWTH_BYTES: u64 = 64 << 20;

fn main() -> ExitCode {
    let started = Instant::now();
    let before = resident_bytes();
    let store = MemoryStore::new();
    // No quota refills while this runs.
    let policies = [
        Policy::aligned_window("window", Quota::new(3, YEARS)).unwrap(),
        Policy::token_bucket("bucket", Quota::per_day(3)).unwrap(),
    ];
    let [window, bucket] = &policies;
    let space = RateLimitStore::keys(&store).space("flood");
    let key = |number: u64| space.short_key(&number.to_le_bytes());
    let watched = key(u64::MAX);
    for policy in [window, bucket] {
        let admitted = (0..10).filter(|_| take(&store, &watched, policy)).count();
        assert_eq!(admitted, 3, "a new key must have its full quota");
    }

    let (gained, largest) = (AtomicU64::new(0), AtomicU64::new(0));
    let flood = |thread| {
        for number in (thread..KEYS).step_by(THREADS as usize) {
            let turn = number / THREADS;
            let policy = if turn.is_multiple_of(2) {
                window
            } else {
                bucket
            };
            take(&store, &key(number), policy);
            if turn.is_multiple_of(CHECK_INTERVAL) {
                let admitted = |policy: &&Policy| take(&store, &watched, policy);
                let admitted = [window, bucket].into_iter().filter(admitted).count();
                gained.fetch_add(admitted as u64, Ordering::Relaxed);
                largest.fetch_max(resident_bytes().unwrap_or(0), Ordering::Relaxed);
            }
        }
    };
    let flood = &flood;
    thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || flood(thread));
        }
    });
    let (gained, largest) = (gained.into_inner(), largest.into_inner());

    let growth = before.map(|before| largest.saturating_sub(before));
    println!(
        "{KEYS} new keys in {:.1?}: the exhausted key was admitted {gained} times",
        started.elapsed()
    );
    match growth {
        Some(growth) => println!("BYTES flood/10m {growth} (at most {MAX_GROWTH_BYTES})"),
        None => println!("the memory of the process is unknown on this system"),
    }
    if gained == 0 && growth.unwrap_or(0) <= MAX_GROWTH_BYTES {
        ExitCode::SUCCESS
    } else {
        eprintln!("EXCEEDED");
        ExitCode::FAILURE
    }
}

const YEARS: std::time::Duration = std::time::Duration::from_secs(40 * 365 * 24 * 60 * 60);

fn take(store: &MemoryStore, key: &StoreKey, policy: &Policy) -> bool {
    let charges = [Charge::new(policy, 1)];
    let decisions = store.take(key, &charges).into_ready();
    matches!(decisions, ReadyOrPending::Ready(Ok(decisions)) if decisions.is_admitted())
}

/// Returns the resident memory of the process, or `None` on systems other than Linux.
fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}
