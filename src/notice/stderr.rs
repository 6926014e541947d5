//! Notices as lines on stderr.

use std::io::{self, Write};

/// Writes the notice as one line.
pub(super) fn say(message: &str) {
    // `eprintln!` panics if stderr is closed, and a notice must not fail a request.
    let _ = writeln!(io::stderr().lock(), "portcullis: {message}");
}
