//! Audit events and their sinks.

#[cfg(any(
    feature = "access-log",
    feature = "api-key",
    feature = "cache",
    feature = "rate-limit"
))]
mod audit;
mod event;
#[cfg(feature = "access-log")]
mod notices;
#[cfg(feature = "rate-limit")]
mod presence;

#[cfg(any(
    feature = "access-log",
    feature = "api-key",
    feature = "cache",
    feature = "rate-limit"
))]
pub(crate) use self::audit::Audit;
pub use self::event::{AuditEvent, Auditor, KeyAction};
