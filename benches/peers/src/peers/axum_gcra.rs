//! `axum_gcra` without its layer, which needs an older axum.

use std::hash::RandomState;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use ::axum_gcra::gcra::{Quota, RateLimiter};

use crate::harness::{Case, Who};
use crate::workload::{Key, decisions};

pub fn cases() -> Vec<Case> {
    let all = [of::<String>(), of::<IpAddr>(), of::<u64>()];
    all.into_iter().flatten().collect()
}

fn of<K: Key>() -> Vec<Case> {
    let limiter = || RateLimiter::new(u64::MAX, RandomState::new());
    decisions(Who::Peer("axum_gcra"), limiter, allow::<K>)
}

/// A limit that denies no row.
fn allow<K: Key>(limiter: &RateLimiter<K>, key: &K) {
    let burst = NonZeroU64::new(1_000_000_000).expect("it is not zero");
    let quota = Quota::new(Duration::from_secs(1), burst);
    let allowed = limiter.req_sync(key.clone(), quota, Instant::now());
    assert!(allowed.is_ok(), "nothing is denied here");
}
