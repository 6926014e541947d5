//! Escapes of Apache's log formats.

/// The content of a field that has no value.
pub(super) const ABSENT: u8 = b'-';

/// Appends text to a field between quotes.
///
/// Control characters and bytes outside of ASCII are written as `\xHH`. Quotes and backslashes are
/// preceded by a backslash.
pub(super) fn push_quoted(out: &mut Vec<u8>, text: &str) {
    push_escaped(out, text, |byte| byte.is_ascii_graphic() || byte == b' ');
}

/// Appends text that ends at the next space.
pub(super) fn push_word(out: &mut Vec<u8>, text: &str) {
    push_escaped(out, text, |byte| byte.is_ascii_graphic());
}

/// Appends the value of a field. A value that equals the marker of absence is escaped.
pub(super) fn push_value(out: &mut Vec<u8>, text: &str, push: impl FnOnce(&mut Vec<u8>, &str)) {
    match text.as_bytes() {
        [ABSENT] => push_hex(out, ABSENT),
        _ => push(out, text),
    }
}

fn push_escaped(out: &mut Vec<u8>, text: &str, is_plain: impl Fn(u8) -> bool) {
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            _ if is_plain(byte) => out.push(byte),
            _ => push_hex(out, byte),
        }
    }
}

fn push_hex(out: &mut Vec<u8>, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";

    let digit = |nibble: u8| DIGITS[usize::from(nibble)];
    out.extend_from_slice(&[b'\\', b'x', digit(byte >> 4), digit(byte & 0xf)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(push: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        push(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn escapes_match_those_of_apache() {
        let text = "a b\"\\\r\n\t\0\u{1b}\u{7f}é\u{2028}";
        assert_eq!(
            escaped(|out| push_quoted(out, text)),
            r#"a b\"\\\x0d\x0a\x09\x00\x1b\x7f\xc3\xa9\xe2\x80\xa8"#
        );
        assert_eq!(escaped(|out| push_word(out, "a b")), r"a\x20b");
    }

    #[test]
    fn value_that_equals_the_marker_of_absence_is_escaped() {
        assert_eq!(escaped(|out| push_value(out, "-", push_word)), r"\x2d");
        assert_eq!(escaped(|out| push_value(out, "--", push_word)), "--");
    }
}
