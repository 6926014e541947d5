//! The trace that a request belongs to, by W3C Trace Context.

use http::HeaderValue;

/// The ids of `traceparent`, version 00 or a later one that begins like it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: [u8; 32],
    span_id: [u8; 16],
    flags: [u8; 2],
}

impl TraceContext {
    /// Reads a `traceparent`. One that is not valid is as good as none.
    pub(super) fn parse(value: &HeaderValue) -> Option<Self> {
        let bytes = value.as_bytes();
        let ([version @ .., b'-'], rest) = bytes.split_first_chunk::<3>()? else {
            return None;
        };
        let (trace_id, rest) = hex_field(rest)?;
        let (span_id, rest) = hex_field(rest.strip_prefix(b"-")?)?;
        let (flags, rest) = hex_field(rest.strip_prefix(b"-")?)?;
        let ends = match version {
            b"00" => rest.is_empty(),
            b"ff" => false,
            later => later.iter().all(is_hex) && matches!(rest, [] | [b'-', ..]),
        };
        let zero = all_zero(&trace_id) || all_zero(&span_id);
        (ends && !zero).then_some(Self {
            trace_id,
            span_id,
            flags,
        })
    }

    /// Returns the id of the trace: 32 hexadecimal digits.
    pub fn trace_id(&self) -> &str {
        text(&self.trace_id)
    }

    /// Returns the id of the caller's span: 16 hexadecimal digits.
    pub fn span_id(&self) -> &str {
        text(&self.span_id)
    }

    /// Returns the caller's flags: 2 hexadecimal digits.
    pub fn flags(&self) -> &str {
        text(&self.flags)
    }
}

fn hex_field<const N: usize>(bytes: &[u8]) -> Option<([u8; N], &[u8])> {
    let (field, rest) = bytes.split_first_chunk::<N>()?;
    field.iter().all(is_hex).then_some((*field, rest))
}

/// The digits of a `traceparent` are small letters.
fn is_hex(byte: &u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

fn all_zero(digits: &[u8]) -> bool {
    digits.iter().all(|digit| *digit == b'0')
}

fn text(digits: &[u8]) -> &str {
    str::from_utf8(digits).expect("hexadecimal digits are ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn parse(value: &str) -> Option<TraceContext> {
        TraceContext::parse(&value.parse().unwrap())
    }

    #[test]
    fn the_ids_of_a_valid_header_are_read() {
        let trace = parse(VALID).unwrap();
        assert_eq!(trace.trace_id(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(trace.span_id(), "b7ad6b7169203331");
        assert_eq!(trace.flags(), "01");
    }

    #[test]
    fn a_later_version_may_go_on_where_version_00_ends() {
        assert!(parse(&VALID.replacen("00", "cc", 1)).is_some());
        assert!(parse(&format!("{}-what-follows", VALID.replacen("00", "cc", 1))).is_some());
        assert!(parse(&format!("{}.what", VALID.replacen("00", "cc", 1))).is_none());
        assert!(parse(&format!("{VALID}-what-follows")).is_none());
    }

    #[test]
    fn what_is_not_valid_is_as_good_as_none() {
        for value in [
            "",
            "00",
            &VALID[..54],
            &VALID.to_uppercase(),
            &VALID.replacen("00", "ff", 1),
            &VALID.replacen("00", "zz", 1),
            &VALID.replace('-', "_"),
            &VALID.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &VALID.replace("b7ad6b7169203331", &"0".repeat(16)),
        ] {
            assert_eq!(parse(value), None, "{value:?}");
        }
    }
}
