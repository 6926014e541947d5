//! JSON, as far as this crate writes it.

/// Which bytes stand for themselves, whatever stands beside them.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0x20;
    while byte < 0x7f {
        plain[byte] = byte != b'"' as usize && byte != b'\\' as usize;
        byte += 1;
    }
    plain
};

/// Appends a JSON string, quotes included.
///
/// Besides what RFC 8259 section 7 demands, DEL, the C1 controls and the characters that change
/// the direction of text are escaped: a line shown on a terminal is then only what it says.
pub(crate) fn push_string(out: &mut Vec<u8>, value: &str) {
    out.push(b'"');
    push_escaped(out, value);
    out.push(b'"');
}

/// Appends a part of a JSON string: what [`push_string`] writes between the quotes.
pub(crate) fn push_escaped(out: &mut Vec<u8>, value: &str) {
    let bytes = value.as_bytes();
    let mut plain_from = 0;
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        // Most bytes are plain; only quotes, controls and beyond ASCII need a second look.
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

/// Appends a comma unless an object or a list has just been opened.
pub(crate) fn push_comma(out: &mut Vec<u8>) {
    if !matches!(out.last(), None | Some(b'{' | b'[')) {
        out.push(b',');
    }
}

/// Appends a member's name and its colon, after a comma where one is due.
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

/// Appends `\uXXXX`. All that is escaped stands in the basic plane.
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
