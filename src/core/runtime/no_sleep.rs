//! Sleeping without Tokio.

use std::time::Duration;

use super::runtime::Task;

/// Returns `None`, because there is no timer.
pub(crate) fn sleep_here(_: Duration) -> Option<Task> {
    None
}
