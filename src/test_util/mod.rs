//! Redis servers for tests, and a proxy that injects network faults.
//!
//! These types test a service with its real storage: a single server, a Cluster of three primaries
//! with replicas, or a server with Sentinels. Each server listens on a free port of the loopback
//! interface and stores its files in a temporary folder. The port and the folder are released when
//! the server is dropped. `redis-server` must be installed.
//!
//! All functions panic on errors, so the test fails.
//!
//! ```
//! # #[cfg(feature = "rate-limit")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), portcullis::ConfigError> {
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
//! // While the server does not respond, the service rejects requests.
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
    reason = "waits for processes, and copies bytes in its own threads"
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
