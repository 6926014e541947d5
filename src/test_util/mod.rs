//! Redis servers that a test starts and ends, and a proxy that fails as it is told.
//!
//! They prove a service on the storage that it will run on: a server, a Cluster of three main servers
//! and their replicas, or Sentinels that watch one. Each listens on a free port of the loopback and
//! keeps its files in a folder of its own; both are gone once it is dropped. `redis-server` must be
//! installed.
//!
//! Whatever goes wrong here panics and says what: it is a test that fails.
//!
//! ```
//! # #[cfg(feature = "rate-limit")]
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), portcullis::ConfigError> {
//! use http::{Request, Response, StatusCode};
//! use portcullis::{
//!     rate_limit::{OnStoreError, Partition, Policy, Quota, RateLimitLayer},
//!     store::{StoreKeys, RedisConfig, RedisStore},
//!     test_util::{Fault, FaultProxy, RedisServer},
//! };
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! let server = RedisServer::start();
//! let proxy = FaultProxy::new(server.addr());
//! let keys = StoreKeys::from_secret(b"a secret that all instances of the service share")?;
//! let store = RedisStore::new(RedisConfig::single(proxy.url()), keys)?;
//! let limit = RateLimitLayer::builder(store, Partition::method())
//!     .policy(Policy::token_bucket("all", Quota::per_second(10))?)
//!     .on_store_error(OnStoreError::Deny)
//!     .build()?;
//! let service = limit.layer(service_fn(async |_: Request<()>| {
//!     Ok::<_, std::convert::Infallible>(Response::new(String::new()))
//! }));
//!
//! // What does the service answer while its server is silent?
//! proxy.set(Fault::BlackHole);
//! let answer = service.oneshot(Request::new(())).await.unwrap();
//! assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
//! assert!(server.keys_without_expiry().is_empty());
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "rate-limit"))]
//! # fn main() {}
//! ```
#![allow(
    clippy::disallowed_methods,
    reason = "waits for processes, and passes on bytes in threads of its own"
)]

mod client;
mod cluster;
mod patience;
mod proxy;
mod sentinels;
mod server;

pub use self::client::{RedisClient, RedisReply};
pub use self::cluster::RedisCluster;
pub use self::proxy::{Fault, FaultProxy};
pub use self::sentinels::RedisSentinels;
pub use self::server::{RedisServer, free_addr};
