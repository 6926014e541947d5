//! The outcomes of the layers, and the handle that writes them to the access log's record.

#[cfg(feature = "cache")]
mod amend;
#[cfg(feature = "access-log")]
mod kept;
#[cfg(feature = "rate-limit")]
mod limiter;
mod outcome;
mod record;
mod slots;

#[cfg(feature = "access-log")]
pub(crate) use self::kept::KeptRecord;
#[cfg(feature = "rate-limit")]
pub(crate) use self::limiter::RecordedRateLimit;
pub use self::outcome::{
    AuthDenial, AuthOutcome, CacheOutcome, CacheSource, PolicyOutcome, RateLimitDecision,
    RateLimitOutcome,
};
#[cfg(feature = "access-log")]
pub(crate) use self::record::Beside;
pub use self::record::RecordHandle;
pub use self::slots::{FieldValue, RecordData, StoreCall};
