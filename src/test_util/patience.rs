//! The timeout with which tests wait for servers.

use std::{
    thread,
    time::{Duration, Instant},
};

/// The timeout for servers to start, to reply, and to find one another.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until a condition is met.
pub(super) fn until(mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(
            begun.elapsed() < PATIENCE,
            "the servers did not reach the expected state in time"
        );
        thread::sleep(Duration::from_millis(20));
    }
}
