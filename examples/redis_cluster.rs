//! A limit that several instances share through a Redis Cluster.
//!
//! ```text
//! export STORE_SECRET=$(openssl rand -hex 32)
//! REDIS_NODES=redis://10.0.0.1:6379,redis://10.0.0.2:6379 \
//!     cargo run --features redis --example redis_cluster
//! ```
//!
//! Run it in two terminals: both share a limit of 20 requests per 10 seconds. One node is
//! sufficient to discover the others. For a single server, use `RedisConfig::single`.
//!
//! If `REDIS_PASSWORD_FILE` is set, each connection authenticates as `REDIS_USER` (by default
//! `default`) with the current content of that file, so that the password can rotate. Append
//! `?protocol=2` to the URLs to use RESP2. By default connections use RESP3 if the nodes support
//! it.

use std::{env, error::Error, fs, io, time::Duration};

use portcullis::{
    rate_limit::{Policy, Quota, RateLimitStore},
    store::{RedisConfig, RedisCredentials, RedisStore, StoreKeys, backend::Charge},
};

/// Returns the current credentials. Called for each connection.
async fn credentials(file: String) -> io::Result<RedisCredentials> {
    let user = env::var("REDIS_USER").unwrap_or_else(|_| "default".to_owned());
    Ok(RedisCredentials::new(
        user,
        fs::read_to_string(file)?.trim(),
    ))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let nodes = env::var("REDIS_NODES")
        .map_err(|_| "REDIS_NODES is not set; set it to comma-separated URLs of some nodes")?;
    // Shared by all instances: keys the digests that name partitions.
    let secret = env::var("STORE_SECRET")
        .map_err(|_| "STORE_SECRET is not set; set it to at least 32 bytes")?;
    let keys = StoreKeys::from_secret(secret.as_bytes())?;
    let mut config = RedisConfig::cluster(nodes.split(','));
    if let Ok(file) = env::var("REDIS_PASSWORD_FILE") {
        config = config.credentials_provider(move || credentials(file.clone()));
    }
    let store = RedisStore::new(config, keys)?;

    let policy = Policy::fixed_window("demo", Quota::new(20, Duration::from_secs(10)))?;
    let caller = store.keys().space("demo").short_key(b"demo caller");
    for _ in 0..30 {
        match store.take(&caller, &[Charge::new(&policy, 1)]).await {
            Ok(decisions) => {
                let remaining = decisions.each()[0].remaining();
                let decision = if decisions.is_admitted() {
                    "admitted"
                } else {
                    "denied"
                };
                println!("{decision}, {remaining} remaining");
            }
            // A layer applies its `OnStoreError`.
            Err(error) => println!("no decision: {error}"),
        }
    }
    println!("{:?}", store.stats());
    store.close().await;
    Ok(())
}
