//! Audit events and their sinks.

#[cfg(any(
    feature = "access-log",
    feature = "api-key",
    feature = "cache",
    feature = "rate-limit"
))]
mod audit;
mod event;
#[cfg(feature = "rate-limit")]
mod heard;
#[cfg(feature = "access-log")]
mod notices;

#[cfg(any(
    feature = "access-log",
    feature = "api-key",
    feature = "cache",
    feature = "rate-limit"
))]
pub(crate) use self::audit::Audit;
pub use self::event::{AuditEvent, Auditor, KeyAction};
