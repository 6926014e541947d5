//! `governor`: a keyed limiter in a `DashMap`, with its defaults and with `ahash`.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::num::NonZeroU32;

use ::governor::clock::DefaultClock;
use ::governor::middleware::NoOpMiddleware;
use ::governor::state::keyed::DashMapStateStore;
use ::governor::{Quota, RateLimiter};

use crate::harness::{Case, Unit, Who};
use crate::workload::{Key, bytes_per_key, decisions};

const NAME: &str = "governor";
const NAME_AHASH: &str = "governor-ahash";

type Instant = <DefaultClock as ::governor::clock::Clock>::Instant;
type Limiter<K, H> = RateLimiter<K, DashMapStateStore<K, H>, DefaultClock, NoOpMiddleware<Instant>>;

pub fn cases() -> Vec<Case> {
    let memory = Case::gauge("memory/1m", Who::Peer(NAME), Unit::Bytes, || {
        bytes_per_key(default, allow)
    });
    let all = [
        both::<String>(),
        both::<IpAddr>(),
        both::<u64>(),
        vec![memory],
    ];
    all.into_iter().flatten().collect()
}

fn both<K: Key>() -> Vec<Case> {
    let with_ahash = || RateLimiter::dashmap_with_hasher(wide(), ahash::RandomState::new());
    let mut cases = decisions(Who::Peer(NAME), default::<K>, allow);
    cases.extend(decisions(Who::Peer(NAME_AHASH), with_ahash, allow::<K, _>));
    cases
}

fn default<K: Key>() -> Limiter<K, std::hash::RandomState> {
    RateLimiter::dashmap(wide())
}

/// A limit that denies no row.
fn wide() -> Quota {
    let burst = NonZeroU32::new(1_000_000_000).expect("it is not zero");
    Quota::per_second(NonZeroU32::MIN).allow_burst(burst)
}

fn allow<K: Key, H: BuildHasher + Clone>(limiter: &Limiter<K, H>, key: &K) {
    assert!(limiter.check_key(key).is_ok(), "nothing is denied here");
}
