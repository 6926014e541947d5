//! `governor` with its defaults: a keyed limiter in a `DashMap`, with `String` keys.

use std::num::NonZeroU32;

use ::governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::harness::{Case, Unit, Who};
use crate::workload::{bytes_per_key, decide_keys};

const NAME: &str = "governor";

pub fn cases() -> Vec<Case> {
    let warm = limiter();
    vec![
        Case::peer(
            "decision/string/1k/1t",
            NAME,
            decide_keys(move |key| allow(&warm, key)),
        ),
        Case::gauge("memory/string/1m", Who::Peer(NAME), Unit::Bytes, || {
            bytes_per_key(limiter, allow)
        }),
    ]
}

/// So wide that no row is ever denied.
fn limiter() -> DefaultKeyedRateLimiter<String> {
    RateLimiter::keyed(Quota::per_second(
        NonZeroU32::new(1_000_000_000).expect("it is not zero"),
    ))
}

fn allow(limiter: &DefaultKeyedRateLimiter<String>, key: &String) {
    assert!(limiter.check_key(key).is_ok(), "nothing is denied here");
}
