//! Decoding of keys in requests.

use zeroize::Zeroizing;

/// The maximum length of encoded input. A key is shorter in every encoding.
const ENCODED_LEN_MAX: usize = 512;

/// Decodes base64 (RFC 4648 section 4), with or without padding.
pub(crate) fn decode_base64(encoded: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    if encoded.len() > ENCODED_LEN_MAX {
        return None;
    }
    let mut end = encoded.len();
    while end > 0 && encoded.len() - end < 2 && encoded[end - 1] == b'=' {
        end -= 1;
    }
    // The full capacity prevents a reallocation, which would leave a copy in memory.
    let mut decoded = Zeroizing::new(Vec::with_capacity(ENCODED_LEN_MAX));
    let (mut bits, mut held) = (0_u32, 0_u32);
    for symbol in &encoded[..end] {
        bits = bits << 6 | u32::from(sextet(*symbol)?);
        held += 6;
        if held >= 8 {
            held -= 8;
            decoded.push(u8::try_from(bits >> held & 0xff).ok()?);
        }
    }
    Some(decoded)
}

fn sextet(symbol: u8) -> Option<u8> {
    match symbol {
        b'A'..=b'Z' => Some(symbol - b'A'),
        b'a'..=b'z' => Some(symbol - b'a' + 26),
        b'0'..=b'9' => Some(symbol - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

/// Returns `true` for a `token68` (RFC 9110 section 11.2).
pub(crate) fn is_token68(text: &[u8]) -> bool {
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(byte);
    let symbols = &text[..text.len() - padding];
    !symbols.is_empty() && symbols.iter().all(plain)
}

/// Decodes percent-encoded bytes (RFC 3986 section 2.1). Invalid escapes are unchanged.
pub(crate) fn decode_percent(encoded: &[u8]) -> Zeroizing<Vec<u8>> {
    let encoded = &encoded[..encoded.len().min(ENCODED_LEN_MAX)];
    let mut decoded = Zeroizing::new(Vec::with_capacity(encoded.len()));
    let mut rest = encoded;
    while let [first, after @ ..] = rest {
        let escaped = match rest {
            [b'%', high, low, ..] => digit(*high).zip(digit(*low)),
            _ => None,
        };
        match escaped {
            Some((high, low)) => {
                decoded.push(high << 4 | low);
                rest = &rest[3..];
            }
            None => {
                decoded.push(*first);
                rest = after;
            }
        }
    }
    decoded
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_decoded_and_nothing_else() {
        let decoded = |text: &str| decode_base64(text.as_bytes()).map(|bytes| bytes.to_vec());
        assert_eq!(decoded("Zm9vYg==").unwrap(), b"foob");
        assert_eq!(decoded("Zm9vYg").unwrap(), b"foob");
        assert_eq!(decoded("Zm9vYmE=").unwrap(), b"fooba");
        assert_eq!(decoded("Zm9vYmFy").unwrap(), b"foobar");
        assert_eq!(decoded("+/+/").unwrap(), [0xfb, 0xff, 0xbf]);
        for wrong in ["Zm9v\n", "Zm=v", "Zm9vYg===", "Zm-_"] {
            assert_eq!(decoded(wrong), None, "{wrong}");
        }
        assert_eq!(decoded(&"A".repeat(513)), None);
    }

    #[test]
    fn token68_is_symbols_followed_by_padding() {
        for right in ["a", "A1-._~+/", "a=", "a==="] {
            assert!(is_token68(right.as_bytes()), "{right}");
        }
        for wrong in ["", "=", "a=b", "a b", "a,", "a\"", "ä", "a%41", "a\t"] {
            assert!(!is_token68(wrong.as_bytes()), "{wrong:?}");
        }
    }

    #[test]
    fn percent_escapes_are_decoded_and_the_rest_stays() {
        let decoded = |text: &str| decode_percent(text.as_bytes()).to_vec();
        assert_eq!(decoded("a%5Fb%2f"), b"a_b/");
        assert_eq!(decoded("%"), b"%");
        assert_eq!(decoded("%5"), b"%5");
        assert_eq!(decoded("%zz%41"), b"%zzA");
        assert_eq!(decoded("%%41"), b"%A");
    }
}
