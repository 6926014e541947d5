//! Span and trace ids, as defined by W3C Trace Context.

use http::{HeaderMap, HeaderName, HeaderValue};

/// The request header that carries a [`TraceContext`].
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The flags that W3C Trace Context defines: "sampled" and "random trace id".
const KNOWN_FLAGS: u8 = 0b11;
const SAMPLED: u8 = 0b01;
const RANDOM_TRACE_ID: u8 = 0b10;

/// The ids of a span and its trace, as in the `traceparent` header.
///
/// Both ids consist of lowercase hexadecimal digits, and neither is all zero.
///
/// ```
/// use portcullis::access_log::record::TraceContext;
///
/// let span = TraceContext::new([0x0a; 16], [0x0b; 8], 1).unwrap();
/// assert_eq!(span.trace_id(), "0a".repeat(16));
/// assert_eq!(span.span_id(), "0b".repeat(8));
/// assert!(span.is_sampled());
/// assert!(TraceContext::new([0; 16], [0x0b; 8], 1).is_none());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: [u8; 32],
    span_id: [u8; 16],
    flags: [u8; 2],
}

impl TraceContext {
    /// Creates a context from the bytes of the ids and the trace flags.
    ///
    /// Returns `None` if either id is all zero, because W3C Trace Context and OpenTelemetry define
    /// such ids as invalid.
    pub fn new(trace_id: [u8; 16], span_id: [u8; 8], flags: u8) -> Option<Self> {
        let is_zero = trace_id == [0; 16] || span_id == [0; 8];
        (!is_zero).then(|| Self {
            trace_id: hex(&trace_id),
            span_id: hex(&span_id),
            flags: hex(&[flags]),
        })
    }

    /// Parses the `traceparent` header of a request: version 00, or a later version with the same
    /// prefix.
    ///
    /// Returns `None` if the header is absent, invalid or repeated.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut lines = headers.get_all(TRACEPARENT).iter();
        match (lines.next(), lines.next()) {
            (Some(value), None) => Self::parse(value),
            (None, _) | (Some(_), Some(_)) => None,
        }
    }

    fn parse(value: &HeaderValue) -> Option<Self> {
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

    /// Creates a span in a new trace, with random ids.
    pub(crate) fn root(sampled: bool) -> Self {
        let sampled = if sampled { SAMPLED } else { 0 };
        Self {
            trace_id: hex(&fastrand::u128(1..).to_be_bytes()),
            span_id: random_span_id(),
            flags: hex(&[RANDOM_TRACE_ID | sampled]),
        }
    }

    /// Creates a span with a random id in the same trace. Clears flags that the standard does not
    /// define.
    pub(crate) fn child(&self) -> Self {
        Self {
            span_id: random_span_id(),
            flags: hex(&[self.flag_bits() & KNOWN_FLAGS]),
            ..*self
        }
    }

    /// Returns the ASCII digits of the trace id, the span id and the flags.
    pub(crate) fn digits(&self) -> [&[u8]; 3] {
        [&self.trace_id, &self.span_id, &self.flags]
    }

    /// Returns `true` if both are in the same trace.
    pub(super) fn is_same_trace(&self, other: &Self) -> bool {
        self.trace_id == other.trace_id
    }

    /// Returns the trace id as 32 hexadecimal digits.
    pub fn trace_id(&self) -> &str {
        text(&self.trace_id)
    }

    /// Returns the span id as 16 hexadecimal digits.
    pub fn span_id(&self) -> &str {
        text(&self.span_id)
    }

    /// Returns the trace flags as 2 hexadecimal digits.
    pub fn flags(&self) -> &str {
        text(&self.flags)
    }

    /// Returns `true` if the "sampled" flag is set.
    pub fn is_sampled(&self) -> bool {
        self.flag_bits() & SAMPLED != 0
    }

    /// Returns the `traceparent` header value for requests that are sent within this span.
    pub fn traceparent(&self) -> HeaderValue {
        let (trace_id, span_id, flags) = (self.trace_id(), self.span_id(), self.flags());
        HeaderValue::try_from(format!("00-{trace_id}-{span_id}-{flags}"))
            .expect("hexadecimal digits and dashes are a header value")
    }

    fn flag_bits(&self) -> u8 {
        u8::from_str_radix(self.flags(), 16).expect("flags are two hexadecimal digits")
    }
}

fn random_span_id() -> [u8; 16] {
    hex(&fastrand::u64(1..).to_be_bytes())
}

/// Encodes bytes as lowercase hexadecimal digits, two per byte.
fn hex<const DIGITS: usize>(bytes: &[u8]) -> [u8; DIGITS] {
    const ALPHABET: &[u8; 16] = b"0123456789abcdef";
    let mut digits = [b'0'; DIGITS];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        pair[0] = ALPHABET[usize::from(byte >> 4)];
        pair[1] = ALPHABET[usize::from(byte & 0xf)];
    }
    digits
}

fn hex_field<const N: usize>(bytes: &[u8]) -> Option<([u8; N], &[u8])> {
    let (field, rest) = bytes.split_first_chunk::<N>()?;
    field.iter().all(is_hex).then_some((*field, rest))
}

/// Uppercase digits are invalid in a `traceparent`.
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
    fn reads_the_ids_of_a_valid_field() {
        let trace = parse(VALID).unwrap();
        assert_eq!(trace.trace_id(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(trace.span_id(), "b7ad6b7169203331");
        assert_eq!(trace.flags(), "01");
        assert_eq!(trace.traceparent(), VALID);
    }

    #[test]
    fn a_later_version_may_continue_where_version_00_ends() {
        assert!(parse(&VALID.replacen("00", "cc", 1)).is_some());
        assert!(parse(&format!("{}-what-follows", VALID.replacen("00", "cc", 1))).is_some());
        assert!(parse(&format!("{}.what", VALID.replacen("00", "cc", 1))).is_none());
        assert!(parse(&format!("{VALID}-what-follows")).is_none());
    }

    #[test]
    fn an_invalid_field_is_ignored() {
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

    #[test]
    fn two_fields_are_as_invalid_as_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(TraceContext::of(&headers), None);
        headers.append(TRACEPARENT, VALID.parse().unwrap());
        assert_eq!(TraceContext::of(&headers), parse(VALID));
        headers.append(TRACEPARENT, VALID.parse().unwrap());
        assert_eq!(TraceContext::of(&headers), None);
    }

    #[test]
    fn a_child_continues_its_trace_under_an_id_of_its_own() {
        for (sent, continued) in [("00", "00"), ("01", "01"), ("ff", "03"), ("02", "02")] {
            let parent = parse(&format!("{}{sent}", &VALID[..53])).unwrap();
            let child = parent.child();
            assert_eq!(child.trace_id(), parent.trace_id());
            assert_ne!(child.span_id(), parent.span_id());
            assert_eq!(child.flags(), continued);
            assert_eq!(parse(child.traceparent().to_str().unwrap()), Some(child));
        }
    }

    #[test]
    fn new_traces_have_random_ids_that_read_back() {
        for sampled in [true, false] {
            let (one, other) = (TraceContext::root(sampled), TraceContext::root(sampled));
            assert_ne!(one.trace_id(), other.trace_id());
            assert_ne!(one.span_id(), other.span_id());
            assert_eq!(one.is_sampled(), sampled);
            assert_eq!(parse(one.traceparent().to_str().unwrap()), Some(one));
        }
    }

    #[test]
    fn bytes_and_digits_are_the_same_ids() {
        let context = TraceContext::new([0x0f; 16], [0xa1; 8], 0x01).unwrap();
        assert_eq!(context.trace_id(), "0f".repeat(16));
        assert_eq!(context.span_id(), "a1".repeat(8));
        assert_eq!(context.flags(), "01");
        assert_eq!(TraceContext::new([0; 16], [1; 8], 1), None);
        assert_eq!(TraceContext::new([1; 16], [0; 8], 1), None);
    }
}
