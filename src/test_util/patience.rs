//! How long a test waits for servers.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long servers may take to come up, to answer, and to find one another.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until something is so of servers.
pub(super) fn until(mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(
            begun.elapsed() < PATIENCE,
            "the servers do not find one another"
        );
        thread::sleep(Duration::from_millis(20));
    }
}
