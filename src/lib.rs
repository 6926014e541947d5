//! Tower middleware that protects and speeds up an HTTP API.
#![cfg_attr(docsrs, feature(doc_cfg))]
// A build without all four layers leaves some of the words that they share unused.
#![cfg_attr(
    not(all(
        feature = "api-key",
        feature = "rate-limit",
        feature = "cache",
        feature = "access-log"
    )),
    allow(dead_code, unused_imports)
)]

// Ground: the words that all slices share.
mod audit;
mod body;
mod client_addr;
mod error;
mod forwarded;
mod framework;
mod identity;
mod ip_network;
mod json;
mod notice;
mod record;
mod rejection;
mod request_id;
mod runtime;
mod store_future;
mod store_key;
mod time;

// Four slices: each imports ground alone.
#[cfg(feature = "access-log")]
pub mod access_log;
#[cfg(feature = "api-key")]
pub mod api_key;
#[cfg(feature = "cache")]
pub mod cache;
#[cfg(feature = "rate-limit")]
pub mod rate_limit;

// Backends, and what stands on all of it.
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
pub mod store;

pub use self::audit::{AuditEvent, Auditor};
pub use self::body::ResponseBody;
pub use self::client_addr::{
    ClientAddr, ClientAddrResolver, ForwardedHeader, MissingClientAddr, PeerAddr, TrustedProxies,
};
pub use self::error::{BoxError, ConfigError, StoreError, StoreErrorKind};
#[cfg(all(
    feature = "api-key",
    feature = "rate-limit",
    feature = "cache",
    feature = "access-log"
))]
pub use self::gate::{Gate, GateLayer};
pub use self::identity::{Identity, IdentityBuilder};
pub use self::ip_network::IpNetwork;
pub use self::record::{
    AuthDenial, AuthOutcome, CacheOutcome, CacheSource, FieldValue, PolicyOutcome,
    RateLimitDecision, RateLimitOutcome, RecordHandle, RecordSlots,
};
pub use self::rejection::{Dialect, Rejection, Responder};
pub use self::request_id::RequestId;
#[cfg(feature = "tokio")]
pub use self::runtime::TokioRuntime;
pub use self::runtime::{Runtime, Task};
pub use self::store_future::{Pending, StoreFuture};
pub use self::store_key::{
    KeySpace, LongKeyWriter, LongStoreKey, ShortKeyWriter, StoreKey, StoreKeys,
};
pub use self::time::{Clock, ManualClock, SystemClock, Timestamp};
