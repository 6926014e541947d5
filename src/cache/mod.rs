//! HTTP caching (RFC 9111) that keeps callers apart.
//!
//! A request with a fresh entry in the store is answered from it, with `Age` and `Cache-Status`, and
//! does not reach the inner service. Any other response streams to the client while it is stored, if
//! it may be. The guide [`caching`](crate::guide::caching) describes the whole.
//!
//! # Callers
//!
//! The cache follows RFC 9111 as a shared cache, and adds what the RFC does not know: callers. A
//! response to a request with an [`Identity`](crate::Identity) in its extensions is stored for that
//! caller alone. If the request has a further credential, such as a cookie beside an API key, the
//! entry is for the caller with that credential. A request that has a credential (`Authorization`,
//! `Cookie`, `X-API-Key`) and no `Identity` bypasses the cache. The layer therefore belongs inside the
//! one that authenticates.
//!
//! # What is stored
//!
//! By default, a response is stored if its status is 200, 203, 300, 301, 308, 404 or 410 and it states
//! a freshness lifetime, unless it has `no-store`, a `Set-Cookie` or `Vary: *`, or does not end as it
//! should. [`CachePolicy`] adds lifetimes and statuses for a route or a response;
//! [`CacheLayer::rfc`] stores what RFC 9111 allows. A successful unsafe request invalidates its target
//! URI for every caller; [`CacheTags`] and [`CachePurger`] remove everything else.
//!
//! # Keys
//!
//! A cache entry belongs to the URL that the client sent, also inside of a nested router: see
//! [`ClientUri`](crate::ClientUri). Scheme, authority, path and query are part of the key as they were
//! sent, except that a default port does not count where the scheme is known. So are all request
//! fields by which a proxy or framework may choose another resource: `Forwarded` without its client
//! addresses, `X-Forwarded-*` other than `-For` and `-By`, `X-Original-*`, `X-Rewrite-*`, `X-Host`,
//! and their like.
//!
//! A request bypasses the cache if it asks for another method (`X-HTTP-Method-Override` and its
//! like), if its `Connection` field lists anything but `close`, `keep-alive`, `te`, `upgrade` and
//! `http2-settings`, or if its target bears user information.
//!
//! # Example
//!
//! ```
//! use std::{convert::Infallible, time::Duration};
//!
//! use bytes::Bytes;
//! use http::{Request, Response, header::{AGE, CACHE_CONTROL}};
//! use http_body_util::Full;
//! use portcullis::{ManualClock, cache::CacheLayer, store::MemoryStore};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), portcullis::BoxError> {
//! let clock = ManualClock::default();
//! let cache = CacheLayer::secure(MemoryStore::with_clock(clock.clone()))
//!     .clock(clock.clone())
//!     .build()?;
//! let service = ServiceBuilder::new().layer(cache).service(service_fn(
//!     |_: Request<Full<Bytes>>| async {
//!         let answer = Response::builder().header(CACHE_CONTROL, "max-age=60");
//!         Ok::<_, Infallible>(answer.body(Full::from("hello")).unwrap())
//!     },
//! ));
//!
//! let first = service.clone().oneshot(Request::default()).await?;
//! assert_eq!(first.headers()["cache-status"], "portcullis; fwd=uri-miss; stored; ttl=60");
//! drop(http_body_util::BodyExt::collect(first.into_body()).await?);
//!
//! clock.advance(Duration::from_secs(3));
//! let second = service.oneshot(Request::default()).await?;
//! assert_eq!(second.headers()["cache-status"], "portcullis; hit; ttl=57");
//! assert_eq!(second.headers()[AGE], "3");
//! # Ok(())
//! # }
//! ```

pub(crate) mod backend;
pub mod body;
mod build;
mod builder;
mod config;
mod entry;
mod exchange;
mod fill;
mod flight;
pub mod future;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzz;
mod http;
mod layer;
mod lookup;
mod placement;
mod policy;
mod purger;
#[cfg(feature = "test-util")]
pub(crate) mod sample;
mod service;
#[cfg(all(feature = "access-log", feature = "api-key", feature = "rate-limit"))]
mod stacking;
mod store;
mod tags;

pub use self::builder::CacheLayerBuilder;
pub use self::layer::CacheLayer;
pub use self::lookup::reason::CacheReason;
pub use self::policy::policy::CachePolicy;
pub use self::purger::{CachePurger, Purge};
pub use self::service::Cache;
pub use self::store::{CacheStore, PurgeMode};
pub use self::tags::CacheTags;
pub use crate::core::http::request_head::RequestHead;
