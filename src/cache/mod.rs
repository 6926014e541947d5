//! Middleware that answers from a store what has been answered before.
//!
//! A request that finds a fresh answer is answered with it, with `Age` and `Cache-Status`, and
//! never reaches the inner service. Every other one does, and its answer streams to the client
//! while it is being stored, if it may be.
//!
//! # One caller's answer is never another's
//!
//! The cache follows RFC 9111 as a shared cache, and is stricter where that does not know of
//! callers. Where an [`Identity`](crate::Identity) stands in the request's extensions, the answer
//! is kept for that caller alone; where another credential stands beside the caller's own (a cookie
//! beside a key, which the layer of the keys takes off), for that caller with this one. A request that
//! bears a credential for which nobody vouches (an
//! `Authorization`, a `Cookie`, an `X-API-Key`) goes to the handler, and nothing is kept. So this
//! layer stands inside of the one that authenticates.
//!
//! Never kept are answers that do not say for how long they are fresh, that say `no-store`, that
//! set a cookie, that vary by everything, that are parts (unless they
//! [are to be](CacheLayerBuilder::keep_parts)), that did not end well, and of any status
//! but 200, 203, 300, 301, 308, 404 and 410. What a caller changes by an unsafe method is gone for
//! all callers.
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
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
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

mod answer;
mod assured;
mod body;
mod budget;
mod cache_status;
mod codec;
mod collapse;
mod common;
#[cfg(feature = "compression")]
mod compression;
mod condition;
mod config;
mod date;
mod directives;
mod entry;
mod exchange;
mod field_names;
mod fill;
mod freshness;
mod future;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
mod invalidate;
mod jitter;
mod key;
mod layer;
mod lease;
mod normal_form;
mod packing;
mod part;
mod plan;
mod policy;
mod purger;
mod range;
mod reason;
mod reloads;
mod request;
mod rerouting;
mod rules;
#[cfg(feature = "test-util")]
pub(crate) mod sample;
mod search;
mod service;
mod shown;
mod storability;
mod store;
mod structured;
mod tags;
mod validation;
mod vary;

pub use self::body::CacheBody;
pub use self::entry::StoredResponse;
pub use self::future::ResponseFuture;
pub use self::key::CacheKey;
pub use self::layer::{CacheLayer, CacheLayerBuilder};
pub use self::policy::CachePolicy;
pub use self::purger::{CachePurger, Purge};
pub use self::reason::Reason;
pub use self::service::Cache;
pub use self::store::{
    CacheStore, Fence, Found, Lease, LeaseToken, Lookup, PurgeMode, PurgeTarget, Put, PutOutcome,
    Stamp, Touch,
};
pub use self::tags::CacheTags;
pub use self::vary::{Selection, VariantId, VarySpec};
