//! Rate limits.
//!
//! A request that exceeds its quota receives `429 Too Many Requests` with `Retry-After` and an
//! `application/problem+json` body. The request never reaches the inner service and is not charged,
//! so a client that retries early is not penalized.
//!
//! ```
//! use std::time::Duration;
//!
//! use http::{Request, Response, StatusCode};
//! use portcullis::{
//!     Identity, ManualClock,
//!     rate_limit::{Partition, Policy, Quota, RateLimitFields, RateLimitLayer, Tiers},
//!     store::MemoryStore,
//! };
//! use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let clock = ManualClock::default();
//! let tiers = Tiers::new("free")
//!     .tier("free", [Policy::fixed_window("free", Quota::new(1, Duration::from_secs(10)))?])
//!     .tier("pro", [Policy::token_bucket("pro", Quota::per_second(100).burst(20))?]);
//! let store = MemoryStore::with_clock(clock.clone());
//! let limits = RateLimitLayer::builder(store, Partition::identity())
//!     .tiers(tiers)
//!     .fields(RateLimitFields::Draft11)
//!     .build()?;
//! let mut app = ServiceBuilder::new()
//!     .layer(limits)
//!     .service(service_fn(async |_: Request<String>| {
//!         Ok::<_, std::convert::Infallible>(Response::new("hello".to_owned()))
//!     }));
//!
//! let request = || {
//!     let mut request = Request::new(String::new());
//!     // The API-key layer inserts it.
//!     request.extensions_mut().insert(Identity::builder("k1").tier("free").build());
//!     request
//! };
//! assert_eq!(app.ready().await?.call(request()).await?.status(), StatusCode::OK);
//! let denied = app.ready().await?.call(request()).await?;
//! assert_eq!(denied.status(), StatusCode::TOO_MANY_REQUESTS);
//! assert_eq!(denied.headers()["retry-after"], "10");
//! assert_eq!(denied.headers()["ratelimit"], "\"free\";r=0;t=10");
//!
//! clock.advance(Duration::from_secs(10));
//! assert_eq!(app.ready().await?.call(request()).await?.status(), StatusCode::OK);
//! # Ok(())
//! # }
//! ```
//!
//! # Decisions
//!
//! A [`Partition`] defines which requests share a quota, a [`Policy`] defines the quota and the
//! algorithm, and a [`RateLimitStore`] holds the counts. All policies that apply to a request
//! decide together: if one denies, none is charged. Counts are integers, so there is no rounding.
//! In the long run, a caller that retries on time is admitted exactly at the limit.
//! [`Policy::max_per_window`] returns the maximum that an algorithm admits in any single window. A
//! request that is sent after `Retry-After` is admitted, unless another request in its partition is
//! admitted first.
//!
//! # Queues
//!
//! A [queue](Policy::leaky_queue) delays each request in its response future until the request's
//! turn, and denies requests that would wait too long. A waiting request holds no permit of the
//! inner service, and its queue entry is stored only in memory. If the client disconnects, the
//! entry is removed, and later requests in this process move up. The outcome in the access-log
//! record contains the [delay](crate::outcome::RateLimitOutcome::delayed).
//!
//! # Requests without limits
//!
//! Requests that belong to no partition are not limited. An example is a request without an
//! [`Identity`](crate::Identity) in a limiter that is partitioned by identity. [`Partition::or`]
//! adds an alternative partition. A limiter that is partitioned by client address rejects requests
//! without an address with `500` and reports the missing configuration once.
//!
//! # Costs that are known later
//!
//! If the cost of a request is known only after its response, use
//! [`settle_after_response`](RateLimitLayerBuilder::settle_after_response). The limiter first
//! charges an estimate, and then charges or refunds the difference when the response body ends or
//! the client disconnects. See [`Settlement`].
//!
//! # Charging only some responses
//!
//! To count only failed logins or `404` responses, or to exclude `5xx` responses, use
//! [`charge_if`](RateLimitLayerBuilder::charge_if). The limiter reserves the cost of each request,
//! and refunds the cost if the response should not be charged.
//!
//! # When the store is unavailable
//!
//! [`OnStoreError`] defines how requests are handled while the store is unavailable. Such requests
//! are rejected with `503`, admitted without limits, or decided by an in-process store that has
//! this instance's share of the quota. The access-log record shows how each request was handled.
//! [`Policy::on_store_error`] overrides the choice for one policy. Policies in shadow mode never
//! reject a request.

mod admission;
pub(crate) mod backend;
mod build;
mod builder;
mod config;
mod config_notices;
mod counted;
mod decision;
mod failover;
pub mod future;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzz;
mod headers;
mod layer;
mod partition;
mod placement;
mod policy;
mod service;
#[cfg(all(feature = "access-log", feature = "api-key", feature = "cache"))]
mod stacking;
mod store;

pub use self::admission::handle::{RateLimitHandle, Reservation};
pub use self::admission::penalty::Penalty;
pub use self::admission::response_head::ResponseHead;
pub use self::admission::settlement::Settlement;
pub use self::builder::RateLimitLayerBuilder;
pub use self::failover::on_store_error::OnStoreError;
pub use self::headers::{RateLimitFields, ResetFormat};
pub use self::layer::RateLimitLayer;
pub use self::partition::caller_list::CallerList;
pub use self::partition::partition::Partition;
pub use self::policy::policy::Policy;
pub use self::policy::quota::Quota;
pub use self::policy::quota_text::{IntoQuota, Quotas};
pub use self::policy::sync_mode::SyncMode;
pub use self::policy::{policy_set::PolicyList, tiers::Tiers};
pub use self::service::RateLimit;
pub use self::store::RateLimitStore;
use crate::core::http::request_head;
