//! JSON output.

/// `true` for each byte that needs no escape in any context.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0x20;
    while byte < 0x7f {
        plain[byte] = byte != b'"' as usize && byte != b'\\' as usize;
        byte += 1;
    }
    plain
};

/// Returns a word in which each of the eight bytes is `byte`.
const fn each(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// Returns `true` if no byte needs an escape.
fn are_plain(bytes: &[u8]) -> bool {
    let is_plain = |word: &[u8; 8]| is_plain_word(u64::from_ne_bytes(*word));
    match bytes.last_chunk() {
        // The last word may overlap the one before it.
        Some(last) => bytes.as_chunks().0.iter().all(is_plain) && is_plain(last),
        None => bytes.iter().all(|byte| PLAIN[usize::from(*byte)]),
    }
}

/// Returns `true` if no byte of a word needs an escape. Tests eight bytes at a time, without a
/// branch.
fn is_plain_word(word: u64) -> bool {
    const HIGH: u64 = each(0x80);
    // The high bit of the lowest byte below `least` is set. If so, those of other bytes can be set
    // too.
    let below = |word: u64, least: u8| word.wrapping_sub(each(least)) & !word;
    let is = |byte: u8| below(word ^ each(byte), 1);
    let delete_or_beyond = word | word.wrapping_add(each(1));
    (below(word, 0x20) | is(b'"') | is(b'\\') | delete_or_beyond) & HIGH == 0
}

/// Appends a JSON string, including its quotes.
///
/// In addition to the escapes of RFC 8259 section 7, this function escapes DEL, the C1 controls,
/// and the characters that change the direction of text. A terminal therefore shows the line
/// unaltered.
pub(crate) fn push_string(out: &mut Vec<u8>, value: &str) {
    out.push(b'"');
    push_escaped(out, value);
    out.push(b'"');
}

/// Appends part of a JSON string, which is the output of [`push_string`] without the quotes.
pub(crate) fn push_escaped(out: &mut Vec<u8>, value: &str) {
    let bytes = value.as_bytes();
    if are_plain(bytes) {
        return out.extend_from_slice(bytes);
    }
    let mut plain_from = 0;
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        // Most bytes are plain; only quotes, controls and non-ASCII characters are checked further.
        if PLAIN[usize::from(byte)] {
            at += 1;
            continue;
        }
        let Some(char) = value[at..].chars().next() else {
            break;
        };
        let after = at + char.len_utf8();
        if must_escape(char) {
            out.extend_from_slice(&bytes[plain_from..at]);
            push_escape(out, char);
            plain_from = after;
        }
        at = after;
    }
    out.extend_from_slice(&bytes[plain_from..]);
}

/// Appends a comma, unless an object or a list has just been opened.
pub(crate) fn push_comma(out: &mut Vec<u8>) {
    if !matches!(out.last(), None | Some(b'{' | b'[')) {
        out.push(b',');
    }
}

/// Appends a member's name and its colon, after a comma if needed.
pub(crate) fn push_name(out: &mut Vec<u8>, name: &str) {
    push_comma(out);
    push_string(out, name);
    out.push(b':');
}

fn must_escape(char: char) -> bool {
    matches!(
        char,
        '"' | '\\'
            | '\0'..='\u{1f}'
            | '\u{7f}'..='\u{9f}'
            | '\u{61c}'
            | '\u{200e}' | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
            | '\u{feff}'
    )
}

fn push_escape(out: &mut Vec<u8>, char: char) {
    let short = match char {
        '"' => b'"',
        '\\' => b'\\',
        '\n' => b'n',
        '\r' => b'r',
        '\t' => b't',
        other => return push_unicode(out, other as u32),
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// Appends `\uXXXX`. All escaped characters are in the Basic Multilingual Plane.
fn push_unicode(out: &mut Vec<u8>, code: u32) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(b"\\u");
    for shift in [12, 8, 4, 0] {
        out.push(DIGITS[(code >> shift & 0xf) as usize]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json(value: &str) -> String {
        let mut out = Vec::new();
        push_string(&mut out, value);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn controls_and_direction_marks_are_escaped() {
        assert_eq!(json("a\"b\\c\n\u{1b}[31m"), r#""a\"b\\c\n\u001b[31m""#);
        assert_eq!(
            json("\u{85}\u{202e}\u{2066}\u{7f}"),
            r#""\u0085\u202e\u2066\u007f""#
        );
        assert_eq!(json("grüße 🦀"), "\"grüße 🦀\"");
    }

    #[test]
    fn each_byte_is_found_at_each_place_of_a_word() {
        for (at, byte) in (0..19).flat_map(|at| (0..=255).map(move |byte| (at, byte))) {
            let mut bytes = *b"nineteen bytes long";
            bytes[at] = byte;
            for short in [&bytes[at..], &bytes[..=at], &bytes[..]] {
                assert_eq!(are_plain(short), PLAIN[usize::from(byte)], "{short:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_string_survives_a_json_parser(value in any::<String>()) {
            let parsed: String = serde_json::from_str(&json(&value)).unwrap();
            prop_assert_eq!(parsed, value);
        }

        #[test]
        fn any_string_becomes_one_line_without_controls(value in any::<String>()) {
            prop_assert!(!json(&value).chars().any(char::is_control));
        }
    }
}
