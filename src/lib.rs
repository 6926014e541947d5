//! Tower middleware for HTTP APIs: API keys, rate limits, a private cache and an access log.
//!
//! | layer | purpose | module |
//! |---|---|---|
//! | API keys | authenticates the caller | [`api_key`] |
//! | rate limits | limits the request rate of each client or caller | [`rate_limit`] |
//! | cache | serves stored responses, separately for each caller | [`cache`] |
//! | access log | writes one record per request | [`access_log`] |
//!
//! Each layer works alone. Layers that are used together share the following types through the
//! extensions of the request or response:
//!
//! - [`Identity`] describes the authenticated caller. The identity determines the caller's rate
//!   limits and cache partition.
//! - [`RecordHandle`](outcome::RecordHandle) collects the decisions of the layers for the access
//!   log.
//! - Each type in [`outcome`] describes the decision of one layer.
//!
//! [`Gate`] stacks the layers in the only safe order. The [`guide`] covers the order of layers,
//! caching, Redis and observability.
//!
//! ```
//! use http::{Request, Response, StatusCode};
//! use portcullis::{
//!     Gate,
//!     access_log::AccessLogLayer,
//!     api_key::{ApiKeyLayer, KeyManager, KeyRing, NewKey, Pepper},
//!     cache::CacheLayer,
//!     store::MemoryStore,
//! };
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! type Body = http_body_util::Full<bytes::Bytes>;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // One store for all layers, in memory.
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
//! | feature | default | enables |
//! |---|---|---|
//! | `api-key`, `rate-limit`, `cache`, `access-log` | yes | the four layers |
//! | `memory` | yes | [`store::MemoryStore`] |
//! | `tokio` | yes | [`TokioRuntime`]: tasks and timers on Tokio |
//! | `shutdown` | yes | [`shutdown`]: graceful shutdown on SIGINT and SIGTERM, with a time limit |
//! | `argon2` | no | import of keys that another system hashed with argon2 |
//! | `admin` | no | `api_key::admin`: key management over HTTP, as an axum router |
//! | `redis` | no | `store::RedisStore`: state that instances share on Redis |
//! | `redis-tls` | no | `rediss://` URLs through rustls |
//! | `axum` | no | use of `ConnectInfo`, `MatchedPath`, `OriginalUri`; [`Identity`] as an extractor |
//! | `tracing` | no | records and notices as `tracing` events |
//! | `metrics` | no | metrics for requests and for the decisions of all layers |
//! | `serde` | no | quotas in configuration files |
//! | `compression` | no | gzip compression of cached responses |
//! | `encryption` | no | `store::EncryptedStore`: encryption of cached responses in any store |
//! | `governor` | no | governor's limiters and quotas |
//! | `test-util` | no | test suites for custom stores; with `redis`, test servers and faults |
//! | `full` | no | all of these except `test-util` |
#![cfg_attr(docsrs, feature(doc_cfg))]

// Types that all layers share.
mod core;

// The four layers. Each imports only `core`.
#[cfg(feature = "access-log")]
pub mod access_log;
#[cfg(feature = "api-key")]
pub mod api_key;
#[cfg(feature = "cache")]
pub mod cache;
#[cfg(feature = "rate-limit")]
pub mod rate_limit;

// Stores, and modules that depend on several layers.
#[cfg(feature = "test-util")]
pub mod conformance;
#[cfg(all(
    feature = "api-key",
    feature = "rate-limit",
    feature = "cache",
    feature = "access-log"
))]
pub mod gate;
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
#[doc(inline)]
pub use self::gate::{Gate, GateLayer};
pub use crate::core::allowance::Allowance;
pub use crate::core::audit::{AuditEvent, Auditor, KeyAction};
pub use crate::core::error::{BoxError, ConfigError, StoreError, StoreErrorKind};
pub use crate::core::http::body::ResponseBody;
pub use crate::core::http::client_uri::ClientUri;
pub use crate::core::http::rejection::{Dialect, Rejection, RejectionKind};
pub use crate::core::http::request_head::RequestHead;
pub use crate::core::http::request_id::RequestId;
pub use crate::core::http::responder::{RejectionContext, Responder};
pub use crate::core::identity::{Identity, IdentityBuilder};
pub use crate::core::net::client_addr::{ClientAddr, ClientAddrResolver, PeerAddr, TrustedProxies};
pub use crate::core::net::ip_network::IpNetwork;
#[cfg(feature = "tokio")]
pub use crate::core::runtime::TokioRuntime;
pub use crate::core::runtime::{Runtime, Task};
pub use crate::core::store_api::store_future::StoreFuture;
pub use crate::core::time::{Clock, ManualClock, SystemClock, Timestamp};

// Compiles the examples in the README as doctests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
