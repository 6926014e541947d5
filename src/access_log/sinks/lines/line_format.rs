//! The format of lines other than records.

use crate::core::time::Timestamp;

/// Formats lines other than records like the records, each with its line feed.
pub(in crate::access_log) trait Words: Send + Sync {
    /// Returns the line that reports lost records.
    fn loss(&self, at: Timestamp, reason: &'static str, lost: u64) -> Vec<u8>;

    /// Returns the line of a notice and its time.
    fn notice(&self, message: &str) -> (Timestamp, Vec<u8>);
}
