//! `limitador`, in memory and on Redis. Its keys are strings, so it has only the rows of strings.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use ::limitador::limit::{Context, Expression, Limit};
use ::limitador::storage::redis::AsyncRedisStorage;
use ::limitador::{AsyncRateLimiter, RateLimiter};

use crate::harness::{Case, Who};
use crate::workload::decisions;
use crate::workload::redis::{Server, ask_at_once, runtime};

pub fn cases() -> Vec<Case> {
    decisions::<String, _, _>(Who::Peer("limitador"), limiter, allow)
}

/// Counts without batching: reads, and then adds.
pub fn on_redis(name: &'static str, server: &Rc<Server>) -> Case {
    let runtime = runtime();
    let storage = runtime.block_on(AsyncRedisStorage::new(&server.url()));
    let storage = Box::new(storage.expect("the server is up"));
    let limiter = Arc::new(AsyncRateLimiter::new_with_storage(storage));
    limiter.add_limit(limit());
    let ask = move || {
        let limiter = Arc::clone(&limiter);
        async move {
            let values = HashMap::from([("client".to_owned(), "client".to_owned())]);
            let (namespace, context) = ("peers".into(), Context::from(values));
            let decided = limiter.check_rate_limited_and_update(&namespace, &context, 1);
            assert!(matches!(decided.await, Ok(decided) if !decided.limited));
        }
    };
    let rate = ask_at_once(server, runtime, ask);
    Case::rate(name, Who::Peer("limitador"), rate)
}

fn limiter() -> RateLimiter {
    let limiter = RateLimiter::new(1_000_000);
    limiter.add_limit(limit());
    limiter
}

fn limit() -> Limit {
    let client = Expression::parse("client").expect("a name is an expression");
    Limit::new("peers", 1_000_000_000, 3_600, [], [client])
}

fn allow(limiter: &RateLimiter, key: &String) {
    let values = HashMap::from([("client".to_owned(), key.clone())]);
    let decided = limiter.check_rate_limited_and_update(&"peers".into(), &Context::from(values), 1);
    assert!(matches!(decided, Ok(decided) if !decided.limited));
}
