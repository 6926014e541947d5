//! An HTTP API for a [`KeyManager`](super::KeyManager), based on axum.
//!
//! An [`Authorizer`] authorizes every request. A router cannot be created without one:
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
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let ring = KeyRing::builder("acmepay", MemoryStore::new())
//!     .pepper(Pepper::random(1))
//!     .build()?;
//! let manager = KeyManager::new(&ring);
//! let root = manager.create(NewKey::new("acme").scopes(["keys.manage"])).await?;
//!
//! // Callers whose key has this scope can do everything. The outer layer authenticates them.
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
//! let rejected = app.oneshot(create("not a key")?).await?;
//! assert_eq!(rejected.status(), StatusCode::UNAUTHORIZED);
//! # Ok(()) }
//! ```
//!
//! # Endpoints
//!
//! | Request | Effect | Body members |
//! |---|---|---|
//! | `POST /keys` | creates a key: `201` | the settings of a key, see below; `owner`, `environment`, `expires_in_secs` |
//! | `GET /keys` | returns a page of keys, oldest first | in the query: `owner`, `after`, `limit`; and one of `unused_since`, `expiring_within_secs`, `outdated_pepper=true` |
//! | `GET /keys/{id}` | returns a key | |
//! | `PATCH /keys/{id}` | updates a key, if it has this version | `version`, and the settings to change; `null` removes a setting |
//! | `POST /keys/{id}/disable` | disables a key | `reason` |
//! | `POST /keys/{id}/enable` | enables a key | |
//! | `POST /keys/{id}/revoke` | revokes a key permanently | `reason` |
//! | `POST /keys/{id}/expire` | expires a key immediately | |
//! | `POST /keys/{id}/rotate` | creates a replacement for a key: `201` | `overlap_secs`, defaults to 0 |
//! | `POST /leaked` | revokes a key that was found in public | `key`, the whole key |
//! | `POST /purge` | removes keys that were revoked or expired before the retention period | `retention_secs` |
//!
//! A key is an object with `id`, `display`, `version`, `owner`, `lineage`, `environment`, `status`
//! (`active`, `disabled`, `revoked`, `not_yet_valid` or `expired`), `status_change`, `created_at`,
//! `rotated_from` and `rotated_to`. In a list, it also has `last_used_at` and `uses`. Its settings
//! are `name`, `tier`, `credits`, `limit`, `scopes`, `not_before`, `expires_at`, `metadata` and
//! `constraints`. The values of `credits` and `limit` have the form `"1000/day"`. The members of
//! `constraints` are `networks`, `methods` and `origins`. Times are whole seconds since the Unix
//! epoch. Unset members are `null`.
//!
//! Only the responses to `POST /keys` and `POST /keys/{id}/rotate` contain the secret. They have
//! the members `key` and `secret`. No response is cacheable.
//!
//! Requests that make changes require `Content-Type: application/json`, even if they have no body,
//! because forms on other sites cannot send this header. Requests with unknown members are
//! rejected. Error responses are `application/problem+json`.
//!
//! Each change applies only to the version of the key that was checked. If concurrent changes
//! prevent the change, the response is `409` with the problem type `key-changed`. If the owner
//! already has the [maximum](super::KeyManager::max_keys_per_owner) number of keys, a request to
//! create another key receives `409` with the type `too-many-keys`. Changes that an owner's
//! administrator [cannot make](Administrator::for_owner) receive `403` with the type `forbidden`.

mod administrator;
mod call;
mod key_json;
mod problem;
mod router;

pub use self::administrator::{Administrator, Authorizer};
pub use self::router::router;
