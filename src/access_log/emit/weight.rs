//! The priority of records and events in a full queue.

use super::level::LogLevel;
use crate::access_log::record::record::Record;

/// The priority of a record or event in a full queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weight {
    /// A successful request, which can use three quarters of the capacity.
    Routine,
    /// A failed or denied request, which can use seven eighths of the capacity.
    Important,
    /// An audit event, for which the last eighth is reserved.
    Audit,
}

impl Weight {
    pub(crate) fn of(record: &Record<'_>) -> Self {
        if record.is_denied() || record.level() >= LogLevel::Warn {
            Self::Important
        } else {
            Self::Routine
        }
    }
}
