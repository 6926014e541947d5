//! HTTP caching (RFC 9111) with separate entries for each caller.
//!
//! A request with a fresh cache entry is served from the store, with `Age` and `Cache-Status`, and
//! does not reach the inner service. Otherwise, the response is streamed to the client and, if
//! permitted, stored at the same time. See the guide [`caching`](crate::guide::caching).
//!
//! # Callers
//!
//! The cache implements RFC 9111 as a shared cache. In addition, it separates callers, which the
//! RFC does not define. A response to a request with an [`Identity`](crate::Identity) in its
//! extensions is stored for that caller alone. If the request has a further credential, such as a
//! cookie in addition to an API key, the entry is stored for that combination of caller and
//! credential. A request with a credential (`Authorization`, `Cookie`, `Proxy-Authorization`,
//! `X-API-Key`) and no `Identity` bypasses the cache. Apply the cache inside the layer that
//! authenticates callers.
//!
//! # Storage
//!
//! By default, a response is stored if its status is 200, 203, 300, 301, 308, 404 or 410 and the
//! response has a freshness lifetime. A response is not stored if it has `no-store`, `Set-Cookie`
//! or `Vary: *`, or if it is incomplete. [`CachePolicy`] adds lifetimes and statuses for a route or
//! a response. [`CacheLayer::rfc`] stores everything that RFC 9111 allows. A successful unsafe
//! request invalidates its target URI for every caller; [`CacheTags`] and [`CachePurger`] remove
//! other entries.
//!
//! # Keys
//!
//! A cache entry belongs to the URL that the client sent, even inside a nested router: see
//! [`ClientUri`](crate::ClientUri). The scheme, authority, path and query are part of the key
//! exactly as sent, except that a default port is ignored if the scheme is known. The key also
//! includes all request fields that can cause a proxy or framework to select another resource:
//! `Forwarded` without its client addresses, `X-Forwarded-*` other than `-For` and `-By`,
//! `X-Original-*`, `X-Rewrite-*`, `X-Host`, and similar fields.
//!
//! A request bypasses the cache in any of these cases:
//!
//! - The request overrides its method (`X-HTTP-Method-Override` and similar fields).
//! - The request's `Connection` field lists anything but `close`, `keep-alive`, `te`, `upgrade` and
//!   `http2-settings`.
//! - The request's target contains user information.
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
//!         let response = Response::builder().header(CACHE_CONTROL, "max-age=60");
//!         Ok::<_, Infallible>(response.body(Full::from("hello")).unwrap())
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
mod collapse_options;
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
