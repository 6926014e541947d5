//! The content of records.

pub(super) mod arrival;
pub(super) mod guard;
pub(super) mod key_text;
pub(super) mod record;
pub(super) mod redact;
pub(super) mod request_id;
pub(super) mod request_log;
pub(super) mod schema;
pub(super) mod trace_context;
pub(super) mod trust;
mod url_header;

pub use self::record::{RequestOutcome, User};
pub use self::trace_context::TraceContext;
pub use super::store::LogEntry;
