//! Middleware that authenticates requests by API key.
//!
//! A client sends its key in `Authorization: Bearer` or `x-api-key`. A request with an accepted key
//! reaches the inner service with an [`Identity`](crate::Identity) in its extensions and without
//! the key. [`KeySource`] lists the other locations for keys, such as custom schemes, cookies and
//! WebSocket handshakes. Every other request is rejected. A `401` response does not disclose the
//! reason:
//!
//! | Request | Response |
//! |---|---|
//! | no key | `401`, `missing-credentials`, with a challenge |
//! | a key that is malformed, unknown, expired, revoked, disabled or not yet valid | `401`, `invalid-credentials`, identical for all of these |
//! | two keys, or one key in two places | `400`, `ambiguous-credentials` |
//! | a key that lacks a required scope | `403`, `insufficient-scope` |
//! | a key that is not allowed from this address, for this method or from this origin | `403`, `key-restricted` |
//! | a key, after too many wrong keys from the same address | `429`, `too-many-auth-failures`, `Retry-After` |
//! | a key, while the store is unavailable | `503`, `auth-unavailable`, `Retry-After` |
//!
//! In a layer with a [`Verifier`], the title of a problem matches the presented credential: an API
//! key, a bearer token, or a credential of another kind. If the credential was a bearer token, the
//! response contains only the `Bearer` challenge.
//!
//! Response bodies are `application/problem+json` and are never cacheable.
//!
//! ```
//! use http::{Request, Response};
//! use portcullis::{
//!     Identity,
//!     api_key::{ApiKeyLayer, KeyManager, KeyRing, NewKey, Pepper},
//!     store::MemoryStore,
//! };
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let ring = KeyRing::builder("acmepay", MemoryStore::new())
//!     // For this example. A service calls `Pepper::new` with a stored secret.
//!     .pepper(Pepper::random(1))
//!     .build()?;
//! let key = KeyManager::new(&ring).create(NewKey::new("acme")).await?;
//!
//! let service = ApiKeyLayer::builder(&ring).build()?.layer(service_fn(hello));
//! async fn hello(request: Request<String>) -> Result<Response<String>, std::convert::Infallible> {
//!     let caller: &Identity = request.extensions().get().unwrap();
//!     Ok(Response::new(format!("hello {}", caller.owner().unwrap())))
//! }
//!
//! let request = Request::builder().header("x-api-key", key.expose_secret());
//! let response = service.clone().oneshot(request.body(String::new())?).await?;
//! assert_eq!(response.status(), 200);
//!
//! let without = service.oneshot(Request::new(String::new())).await?;
//! assert_eq!(without.status(), 401);
//! # Ok(()) }
//! ```
//!
//! A key has the form `acmepay_live_1Zk3…_…`. It consists of the service's prefix, the environment,
//! a public id for lookups and logs, a secret of 256 bits, and a checksum. The store holds the id
//! and an HMAC-SHA-256 of the whole key, keyed with a [`Pepper`]. Only the key's owner has the
//! secret.
//!
//! The checksum detects typing errors without a store request. It is public, so attackers can
//! compute it too. A [`TagSecret`] replaces it with a tag that only the service can compute.

#[cfg(feature = "admin")]
pub mod admin;
mod authenticate;
pub(crate) mod backend;
mod config;
pub mod future;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzz;
pub mod import;
mod key;
mod layer;
mod manage;
mod placement;
pub mod record;
mod ring;
mod service;
#[cfg(all(feature = "access-log", feature = "cache", feature = "rate-limit"))]
mod stacking;
mod store;

pub use self::authenticate::key_source::KeySource;
pub use self::authenticate::require_scopes::{RequireScopes, RequireScopesLayer};
pub use self::authenticate::verifier::{Credential, StaticKeys, Verdict, Verifier};
pub use self::key::checksum_tag::TagSecret;
pub use self::key::digest::Pepper;
pub use self::key::format::{KeyId, ParseKeyError, scan};
pub use self::key::secret::SecretKey;
pub use self::layer::{ApiKeyLayer, ApiKeyLayerBuilder};
pub use self::manage::generated_key::GeneratedKey;
pub use self::manage::key_error::KeyError;
pub use self::manage::manager::KeyManager;
pub use self::manage::new_key::NewKey;
pub use self::manage::update::KeyUpdate;
pub use self::record::constraints::Constraints;
pub use self::record::invalid::InvalidKeySpec;
pub use self::ring::builder::KeyRingBuilder;
pub use self::ring::ring::KeyRing;
pub use self::service::ApiKey;
pub use self::store::{ApiKeyStore, KeyQuery};
