//! Notices on stderr, for who has no `tracing`.

use std::io::{self, Write};

/// Writes the notice as one line.
pub(super) fn say(message: &str) {
    // `eprintln!` panics where stderr is closed, and a request must not die of a notice.
    let _ = writeln!(io::stderr().lock(), "portcullis: {message}");
}
