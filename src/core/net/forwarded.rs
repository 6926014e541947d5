//! Parsing of the forwarded headers `X-Forwarded-For` and `Forwarded` (RFC 7239), from the right.

use std::{
    iter,
    net::{IpAddr, Ipv6Addr},
    str,
};

/// The maximum number of entries that are read from a forwarded header, counted from the right.
pub(crate) const MAX_ENTRIES: usize = 64;

/// The maximum length of a node: a full IPv6 address, its brackets, a port, and some spare bytes.
pub(crate) const MAX_NODE_BYTES: usize = 64;

/// Returns the non-empty entries (RFC 9110, section 5.6.1), but at most [`MAX_ENTRIES`] of them.
pub(crate) fn hops<'a>(entries: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = &'a [u8]> {
    // Empty entries count too, since a client can send any number of them.
    entries
        .take(MAX_ENTRIES)
        .map(<[u8]>::trim_ascii)
        .filter(|entry| !entry.is_empty())
}

/// Parses an element of `Forwarded`, which consists of semicolon-separated pairs with exactly one
/// `for` (RFC 7239, section 4).
pub(crate) fn parse_element(element: &[u8]) -> Option<IpAddr> {
    let mut node = None;
    for pair in rsplit_unquoted(element, b';').map(<[u8]>::trim_ascii) {
        if pair.is_empty() {
            continue;
        }
        let equals = pair.iter().position(|&byte| byte == b'=')?;
        let value = unquote(&pair[equals + 1..])?;
        if pair[..equals].eq_ignore_ascii_case(b"for") && node.replace(value).is_some() {
            return None;
        }
    }
    parse_node(node?)
}

fn unquote(value: &[u8]) -> Option<&[u8]> {
    match value {
        [b'"', inner @ .., b'"'] => Some(inner),
        plain => (!plain.contains(&b'"')).then_some(plain),
    }
}

/// Parses an address with an optional port, such as `192.0.2.1:80`, `[2001:db8::1]:80` or
/// `2001:db8::1`.
pub(crate) fn parse_node(node: &[u8]) -> Option<IpAddr> {
    if node.len() > MAX_NODE_BYTES {
        return None;
    }
    let node = str::from_utf8(node).ok()?;
    let ip = match node.strip_prefix('[') {
        Some(bracketed) => {
            let (ip, port) = bracketed.split_once(']')?;
            if !port.is_empty() && !is_port(port.strip_prefix(':')?) {
                return None;
            }
            IpAddr::V6(ip.parse::<Ipv6Addr>().ok()?)
        }
        None => match node.split_once(':') {
            Some((ip, port)) if is_port(port) => IpAddr::V4(ip.parse().ok()?),
            _ => node.parse().ok()?,
        },
    };
    Some(ip.to_canonical())
}

/// Returns `true` for a port or an obfuscated port (RFC 7239, section 6.2).
fn is_port(port: &str) -> bool {
    match port.strip_prefix('_') {
        Some(name) => {
            !name.is_empty()
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        }
        None => (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

/// Splits a line at unquoted separators, starting with the rightmost part.
///
/// Quotes are also paired from the right. The text that a trusted proxy writes is well-formed, so
/// an unbalanced quote that the client wrote further left does not affect the proxy's text.
pub(crate) fn rsplit_unquoted(line: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(line);
    iter::from_fn(move || {
        let line = rest?;
        let separator_at = last_unquoted(line, separator);
        rest = separator_at.map(|at| &line[..at]);
        Some(separator_at.map_or(line, |at| &line[at + 1..]))
    })
}

fn last_unquoted(line: &[u8], separator: u8) -> Option<usize> {
    let mut quoted = false;
    for (at, &byte) in line.iter().enumerate().rev() {
        if byte == b'"' {
            // From the right, a quoted string starts at its closing quote and ends at the next
            // unescaped one.
            quoted = !quoted || is_escaped(&line[..at]);
        } else if byte == separator && !quoted {
            return Some(at);
        }
    }
    None
}

fn is_escaped(before: &[u8]) -> bool {
    before
        .iter()
        .rev()
        .take_while(|&&byte| byte == b'\\')
        .count()
        % 2
        == 1
}
