//! A limit that several instances on a Redis Cluster count together.
//!
//! ```text
//! export STORE_SECRET=$(openssl rand -hex 32)
//! REDIS_NODES=redis://10.0.0.1:6379,redis://10.0.0.2:6379 \
//!     cargo run --features redis --example redis_cluster
//! ```
//!
//! Run it in two terminals: each takes from the same limit of twenty in ten seconds. One node is
//! enough to find the others, and one URL of a server that is no Cluster will do with
//! `RedisConfig::single`.

use std::{env, error::Error, time::Duration};

use portcullis::{
    StoreKeys,
    rate_limit::{Charge, Policy, Quota, RateLimitStore},
    store::{RedisConfig, RedisStore},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let nodes = env::var("REDIS_NODES").map_err(|_| "set REDIS_NODES to URLs of some nodes")?;
    // The same for all instances: partitions are named by digests under it.
    let secret = env::var("STORE_SECRET").map_err(|_| "set STORE_SECRET to 32 bytes or more")?;
    let keys = StoreKeys::from_secret(secret.as_bytes())?;
    let store = RedisStore::new(RedisConfig::cluster(nodes.split(',')), keys)?;

    let policy = Policy::fixed_window("demo", Quota::new(20, Duration::from_secs(10)))?;
    let caller = store
        .keys()
        .space("demo")
        .short_of(b"one and the same caller");
    for _ in 0..30 {
        match store.take(&caller, &[Charge::new(&policy, 1)]).await {
            Ok(said) => {
                let left = said.each()[0].remaining();
                let verdict = if said.is_admitted() {
                    "admitted"
                } else {
                    "denied"
                };
                println!("{verdict}, {left} left");
            }
            // A layer does here what its `OnStoreError` says.
            Err(error) => println!("no decision: {error}"),
        }
    }
    println!("{:?}", store.stats());
    store.close().await;
    Ok(())
}
