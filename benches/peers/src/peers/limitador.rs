//! `limitador` in memory. What it is asked by is text: so only the rows of strings.

use std::collections::HashMap;

use ::limitador::RateLimiter;
use ::limitador::limit::{Context, Expression, Limit};

use crate::harness::{Case, Who};
use crate::workload::decisions;

pub fn cases() -> Vec<Case> {
    decisions::<String, _, _>(Who::Peer("limitador"), limiter, allow)
}

fn limiter() -> RateLimiter {
    let client = Expression::parse("client").expect("a name is an expression");
    let limiter = RateLimiter::new(1_000_000);
    limiter.add_limit(Limit::new("peers", 1_000_000_000, 3_600, [], [client]));
    limiter
}

fn allow(limiter: &RateLimiter, key: &String) {
    let values = HashMap::from([("client".to_owned(), key.clone())]);
    let decided = limiter.check_rate_limited_and_update(&"peers".into(), &Context::from(values), 1);
    assert!(matches!(decided, Ok(decided) if !decided.limited));
}
