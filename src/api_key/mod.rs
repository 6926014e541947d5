//! Middleware that knows who calls, by an API key.
//!
//! A request bears its key in `Authorization: Bearer` or `x-api-key`. Who bears a good one reaches
//! the inner service with an [`Identity`](crate::Identity) in the request's extensions, and without
//! the key. Who does not is turned away, and is not told why:
//!
//! | the request bears | it is answered |
//! |---|---|
//! | no key | `401`, `missing-credentials`, a challenge |
//! | a key that is malformed, unknown, expired, revoked, disabled or not yet valid | `401`, `invalid-credentials`: the same bytes for each |
//! | two keys, or one in two places | `400`, `ambiguous-credentials` |
//! | a key without a scope that is asked for | `403`, `insufficient-scope` |
//! | a key that may not be used from its address, for its method or by its page | `403`, `key-restricted` |
//! | one more wrong key of too many from one address | `429`, `too-many-auth-failures`, `Retry-After` |
//! | a key, while the store is away | `503`, `auth-unavailable`, `Retry-After` |
//!
//! In a layer with a [`Verifier`], the title of a problem names the credential that was presented: an API
//! key, a bearer token, or a credential. A bearer token is challenged by `Bearer` alone.
//!
//! The bodies are `application/problem+json`, and no cache stores them.
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
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let secret = [0, 1, 2, 3, 4, 5, 6, 7].repeat(4);
//! let ring = KeyRing::builder("acmepay", MemoryStore::new())
//!     .pepper(Pepper::new(1, secret)?)
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
//! A key reads `acmepay_live_1Zk3…_…`: the service's name, the environment, a public id by which it
//! is looked up and logged, a secret of 256 bits, and a checksum that tells typing errors without
//! asking the store. The store has the id and an HMAC-SHA-256 of the whole under a
//! [`Pepper`]; the secret is in the hands of its owner alone.
//!
//! The checksum is public: it keeps typing errors from the store, not attackers. A [`KeyedTag`] in
//! its place keeps those away, too.

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

pub use self::authenticate::extract::KeySource;
pub use self::authenticate::require_scopes::{RequireScopes, RequireScopesLayer};
pub use self::authenticate::verifier::{Credential, StaticKeys, Verdict, Verifier};
pub use self::key::checksum_tag::KeyedTag;
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
