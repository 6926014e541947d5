//! Sinks: the destinations of records.

pub(super) mod backlog;
mod io_fix;
mod json;
pub(super) mod json_lines;
pub(super) mod lines;
mod log_file;
#[cfg(feature = "metrics")]
pub(super) mod metrics;
pub(super) mod pretty;
pub(super) mod queue;
pub(super) mod recent;
pub(super) mod ring;
pub(super) mod scope;
pub(super) mod sink;
#[cfg(feature = "tracing")]
pub(super) mod span;
pub(super) mod span_source;
pub(super) mod target;
mod text;
#[cfg(feature = "tracing")]
pub(super) mod tracing;

pub use self::json_lines::JsonLines;
pub use self::log_file::LogFile;
#[cfg(feature = "metrics")]
pub use self::metrics::Metrics;
pub use self::pretty::PrettyLines;
pub use self::queue::{LogQueue, LogQueueBuilder};
pub use self::recent::RecentRecords;
pub use self::text::{TextFormat, TextLines};
#[cfg(feature = "tracing")]
pub use self::tracing::TracingSink;
pub use super::emit::drop_counts::DropCounts;
