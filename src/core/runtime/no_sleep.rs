//! Sleeping without Tokio.

use std::time::Duration;

use super::runtime::Task;

/// Sleeps on nothing.
pub(crate) fn sleep_here(_: Duration) -> Option<Task> {
    None
}
