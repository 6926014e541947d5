//! Tower middleware that protects and speeds up an HTTP API: four layers that know one another.
//!
//! | layer | says | module |
//! |---|---|---|
//! | API keys | who calls | [`api_key`] |
//! | rate limits | how often | [`rate_limit`] |
//! | secure cache | what was answered before, to the same caller | [`cache`] |
//! | access log | what became of each request | [`access_log`] |
//!
//! Each works alone. Together they share three words: the [`Identity`] that authentication puts
//! into a request's extensions, by which limits are chosen and answers kept apart; the
//! [`RecordHandle`](outcome::RecordHandle) through which each layer writes what it did; and the outcome types, which stand
//! in the response's extensions too. [`Gate`] stacks them in the only safe order.
//!
//! ```
//! use portcullis::{
//!     Gate,
//!     access_log::AccessLogLayer,
//!     api_key::{ApiKeyLayer, KeyManager, KeyRing, NewKey, Pepper},
//!     cache::CacheLayer,
//!     store::MemoryStore,
//! };
//! use tower::{Layer, ServiceExt, service_fn};
//! # use http::{Request, Response, StatusCode};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # type Body = http_body_util::Full<bytes::Bytes>;
//!
//! // One store for all layers: here in memory, which needs no server.
//! let store = MemoryStore::new();
//! let ring = KeyRing::builder("acmepay", store.clone())
//!     .pepper(Pepper::random(1))
//!     .build()?;
//! let key = KeyManager::new(&ring).create(NewKey::new("freya")).await?;
//!
//! let gate = Gate::new()
//!     .access_log(AccessLogLayer::json_lines(std::io::sink()))
//!     .api_keys(ApiKeyLayer::builder(&ring).build()?)
//!     .cache(CacheLayer::new(store))
//!     .build()?;
//! let service = gate.layer(service_fn(async |_: Request<Body>| {
//!     Ok::<_, std::convert::Infallible>(Response::new(Body::from("hello")))
//! }));
//!
//! let without = Request::get("/").body(Body::default())?;
//! let response = service.clone().oneshot(without).await?;
//! assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
//!
//! let with = Request::get("/").header("x-api-key", key.expose_secret());
//! let response = service.oneshot(with.body(Body::default())?).await?;
//! assert_eq!(response.status(), StatusCode::OK);
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//!
//! | feature | default | what it does |
//! |---|---|---|
//! | `api-key`, `rate-limit`, `cache`, `access-log` | yes | the four layers |
//! | `memory` | yes | [`store::MemoryStore`] |
//! | `tokio` | yes | [`TokioRuntime`]: spawning and sleeping on Tokio |
//! | `shutdown` | yes | [`shutdown`]: SIGINT and SIGTERM, and a bounded drain |
//! | `argon2` | no | keys that were made elsewhere and hashed by argon2 |
//! | `admin` | no | `api_key::admin`: keys managed over HTTP, as a router for axum |
//! | `redis` | no | `store::RedisStore`: a Redis server that many instances share |
//! | `redis-tls` | no | the same over TLS, by rustls |
//! | `axum` | no | `ConnectInfo`, `MatchedPath` and `OriginalUri` are understood, [`Identity`] is an extractor |
//! | `tracing` | no | records and notices as `tracing` events |
//! | `metrics` | no | requests and decisions of all layers through the `metrics` facade |
//! | `serde` | no | quotas in configuration files |
//! | `compression` | no | answers of the cache kept compressed, by gzip |
//! | `encryption` | no | a store of any kind whose answers are encrypted |
//! | `governor` | no | governor's limiters and quotas beside ours |
//! | `test-util` | no | suites that prove a store of your own; with `redis`, servers and faults for tests |
//! | `full` | no | all of these but `test-util` |
#![cfg_attr(docsrs, feature(doc_cfg))]

// Types that all layers share.
mod core;

// Four layers: each imports `core` alone.
#[cfg(feature = "access-log")]
pub mod access_log;
#[cfg(feature = "api-key")]
pub mod api_key;
#[cfg(feature = "cache")]
pub mod cache;
#[cfg(feature = "rate-limit")]
pub mod rate_limit;

// Stores, and what is built on the layers.
#[cfg(feature = "test-util")]
pub mod conformance;
#[cfg(all(
    feature = "api-key",
    feature = "rate-limit",
    feature = "cache",
    feature = "access-log"
))]
mod gate;
pub mod guide;
pub mod net;
pub mod outcome;
#[cfg(feature = "shutdown")]
pub mod shutdown;
pub mod store;
#[cfg(all(feature = "redis", feature = "test-util"))]
pub mod test_util;

#[cfg(all(
    feature = "api-key",
    feature = "rate-limit",
    feature = "cache",
    feature = "access-log"
))]
pub use self::gate::{Gate, GateLayer};
pub use crate::core::allowance::Allowance;
pub use crate::core::audit::{AuditEvent, Auditor};
pub use crate::core::error::{BoxError, ConfigError, StoreError, StoreErrorKind};
pub use crate::core::http::body::ResponseBody;
pub use crate::core::http::client_uri::ClientUri;
pub use crate::core::http::rejection::{Dialect, Rejection, Responder};
pub use crate::core::http::request_head::RequestHead;
pub use crate::core::http::request_id::RequestId;
pub use crate::core::identity::{Identity, IdentityBuilder};
pub use crate::core::net::client_addr::{ClientAddr, ClientAddrResolver, PeerAddr, TrustedProxies};
pub use crate::core::net::ip_network::IpNetwork;
#[cfg(feature = "tokio")]
pub use crate::core::runtime::TokioRuntime;
pub use crate::core::runtime::{Runtime, Task};
pub use crate::core::store_api::store_future::{Pending, StoreFuture};
pub use crate::core::time::{Clock, ManualClock, SystemClock, Timestamp};

// The README's code compiles, or the tests fail.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
