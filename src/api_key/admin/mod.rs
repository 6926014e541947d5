//! An HTTP interface to a [`KeyManager`](super::KeyManager), for axum.
//!
//! Who may use it is said by an [`Authorizer`], and there is no router without one:
//!
//! ```compile_fail
//! fn open(manager: portcullis::api_key::KeyManager) -> axum::Router {
//!     portcullis::api_key::admin::router(manager)
//! }
//! ```
//!
//! ```
//! use axum::{Router, body::Body};
//! use http::{Request, StatusCode, request::Parts};
//! use portcullis::{
//!     Identity, StoreFuture,
//!     api_key::{ApiKeyLayer, KeyManager, KeyRing, NewKey, Pepper, admin::{self, Administrator}},
//!     store::MemoryStore,
//! };
//! use tower::ServiceExt;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let ring = KeyRing::builder("acmepay", MemoryStore::new())
//!     .pepper(Pepper::random(1))
//!     .build()?;
//! let manager = KeyManager::new(&ring);
//! let root = manager.create(NewKey::new("acme").scopes(["keys.manage"])).await?;
//!
//! // Whoever has a key with this scope may do everything. The layer outside finds out who calls.
//! let by_scope = |request: &Parts| {
//!     let caller = request.extensions.get::<Identity>();
//!     let caller = caller.filter(|caller| caller.has_scope("keys.manage"));
//!     StoreFuture::ready(caller.map(|caller| Administrator::global(caller.key_id())))
//! };
//! let app = Router::new()
//!     .nest("/admin", admin::router(manager, by_scope))
//!     .layer(ApiKeyLayer::builder(&ring).build()?);
//!
//! let create = |key: &str| {
//!     Request::post("/admin/keys")
//!         .header("x-api-key", key)
//!         .header("content-type", "application/json")
//!         .body(Body::from(r#"{"owner": "freya", "scopes": ["data.read"]}"#))
//! };
//! let created = app.clone().oneshot(create(root.expose_secret())?).await?;
//! assert_eq!(created.status(), StatusCode::CREATED);
//! assert_eq!(created.headers()["cache-control"], "no-store");
//!
//! let nobody = app.oneshot(create("no key at all")?).await?;
//! assert_eq!(nobody.status(), StatusCode::UNAUTHORIZED);
//! # Ok(()) }
//! ```
//!
//! # What it answers
//!
//! | request | what it does | members of the body |
//! |---|---|---|
//! | `POST /keys` | makes a key: `201` | those of a key that can be set, see below; `owner`, `environment`, `expires_in_secs` |
//! | `GET /keys` | a page of keys, oldest first | in the query: `owner`, `after`, `limit`; and one of `unused_since`, `expiring_within_secs`, `outdated_pepper=true` |
//! | `GET /keys/{id}` | one key | |
//! | `PATCH /keys/{id}` | changes a key, if it still has this version | `version`, and what is to change; `null` takes away |
//! | `POST /keys/{id}/disable` | switches it off for the time being | `reason` |
//! | `POST /keys/{id}/enable` | switches it on again | |
//! | `POST /keys/{id}/revoke` | switches it off for good | `reason` |
//! | `POST /keys/{id}/expire` | lets it end now | |
//! | `POST /keys/{id}/rotate` | makes the key that takes its place: `201` | `overlap_secs`; none if left out |
//! | `POST /leaked` | switches off for good a key that was found where it should not be | `key`, the whole of it |
//! | `POST /purge` | removes keys that ended long ago | `retention_secs` |
//!
//! A key is an object with `id`, `display`, `version`, `owner`, `lineage`, `environment`, `status`
//! (`active`, `disabled`, `revoked`, `not_yet_valid` or `expired`), `status_change`, `created_at`,
//! `rotated_from`, `rotated_to`, in a list also `last_used_at` and `uses`, and with what can be set:
//! `name`, `tier`, `credits` and `limit` (as in `"1000/day"`), `scopes`, `not_before`, `expires_at`,
//! `metadata`, `constraints` with `networks`, `methods` and `origins`. Times are whole seconds since
//! the Unix epoch. What is not set is `null`.
//!
//! The secret stands in the answers to `POST /keys` and to `rotate`, as `secret` beside `key`, and
//! nowhere else. No answer may be stored by a cache.
//!
//! A request that changes something must be of `Content-Type: application/json`, with or without a
//! body: no form of another site's page can send one. A member that is not known is refused, so
//! that nobody sets what they were not asked for. Errors are `application/problem+json`.
//!
//! Each change is made in the version of the key that was checked; `409`, `key-changed` means that others
//! kept changing it. An owner that has its [maximum](super::KeyManager::max_keys_per_owner) of keys
//! receives `409`, `too-many-keys`. A change that an owner's administrator [may not
//! make](Administrator::for_owner) receives `403`, `forbidden`.

mod administrator;
mod call;
mod key_json;
mod problem;
mod router;

pub use self::administrator::{Administrator, Authorizer};
pub use self::router::router;
