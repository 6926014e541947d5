//! Notices as lines of an access log on a standard stream, or as lines on stderr.

use std::io::{self, Write};

use super::route;

/// Writes the notice as one line.
pub(super) fn say(message: &str) {
    if !route::take(message) {
        // `eprintln!` panics if stderr is closed, and a notice must not fail a request.
        let _ = io::stderr().lock().write_all(&plain(message));
    }
}

/// Returns the notice as a line of text that a single write can output.
pub(crate) fn plain(message: &str) -> Vec<u8> {
    let printable = |char: char| if char.is_control() { ' ' } else { char };
    let message: String = message.chars().map(printable).collect();
    format!("portcullis: {message}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_one_line_whatever_its_words() {
        let line = plain("cannot use it: -ERR\r\n\u{1b}[31mred");
        assert_eq!(line, b"portcullis: cannot use it: -ERR   [31mred\n");
    }
}
