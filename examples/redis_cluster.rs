//! A limit that several instances share through a Redis Cluster.
//!
//! ```text
//! export STORE_SECRET=$(openssl rand -hex 32)
//! REDIS_NODES=redis://10.0.0.1:6379,redis://10.0.0.2:6379 \
//!     cargo run --features redis --example redis_cluster
//! ```
//!
//! Run it in two terminals: both take from the same limit of 20 requests per 10 seconds. One node is
//! enough to find the others. For a single server, use `RedisConfig::single`.
//!
//! With `REDIS_PASSWORD_FILE`, each connection authenticates as `REDIS_USER` (`default` if it is not
//! set) with the current content of that file, and so may the password rotate. Append `?protocol=2`
//! to the URLs to speak RESP2; by default connections speak RESP3 where the nodes do.

use std::{env, error::Error, fs, io, time::Duration};

use portcullis::{
    rate_limit::{Policy, Quota, RateLimitStore},
    store::{RedisConfig, RedisCredentials, RedisStore, StoreKeys, backend::Charge},
};

/// Reads the current credentials, each time that a connection is opened.
async fn credentials(file: String) -> io::Result<RedisCredentials> {
    let user = env::var("REDIS_USER").unwrap_or_else(|_| "default".to_owned());
    Ok(RedisCredentials::new(
        user,
        fs::read_to_string(file)?.trim(),
    ))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let nodes = env::var("REDIS_NODES").map_err(|_| "set REDIS_NODES to URLs of some nodes")?;
    // The same for all instances: it keys the digests that name partitions.
    let secret = env::var("STORE_SECRET").map_err(|_| "set STORE_SECRET to 32 bytes or more")?;
    let keys = StoreKeys::from_secret(secret.as_bytes())?;
    let mut config = RedisConfig::cluster(nodes.split(','));
    if let Ok(file) = env::var("REDIS_PASSWORD_FILE") {
        config = config.credentials_provider(move || credentials(file.clone()));
    }
    let store = RedisStore::new(config, keys)?;

    let policy = Policy::fixed_window("demo", Quota::new(20, Duration::from_secs(10)))?;
    let caller = store
        .keys()
        .space("demo")
        .short_key(b"one and the same caller");
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
            // A layer applies its `OnStoreError` here.
            Err(error) => println!("no decision: {error}"),
        }
    }
    println!("{:?}", store.stats());
    store.close().await;
    Ok(())
}
