//! What is lost first when room is scarce.

use super::level::LogLevel;
use crate::access_log::record::record::Record;

/// What becomes of a record or an event when room is scarce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weight {
    /// A request that went well: it may take three quarters of the room.
    Routine,
    /// A request that failed or was denied: it may take seven eighths.
    Important,
    /// An event for auditors: it has the last eighth to itself.
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
