//! Canonical forms of values that clients can write in several ways.

use http::{HeaderName, Method, header::HOST};
use smallvec::SmallVec;

use crate::{
    core::net::{client_addr::ClientAddr, forwarded::parse_node},
    rate_limit::request_head::RequestHead,
};

/// The canonical value of a header.
pub(super) enum HeaderField<'a> {
    /// The header is missing.
    Missing,
    /// An address, represented by the bytes of its network.
    Addr([u8; 17]),
    Text(&'a [u8]),
    /// A host name in lower case.
    Host(SmallVec<[u8; 64]>),
}

impl<'a> HeaderField<'a> {
    /// Parses the first value of a header. Addresses that differ only in a port, brackets or the
    /// IPv6 form of an IPv4 address are equal. Hosts that differ only in case, a port or a trailing
    /// dot are equal.
    pub(crate) fn of(name: &HeaderName, head: &RequestHead<'a>) -> Self {
        let is_host = is_host(name);
        let target = (*name == HOST).then(|| head.uri.host()).flatten();
        // The authority of the target takes precedence over the header (RFC 9112 section 3.2.2).
        let text = match target {
            Some(host) => host.as_bytes(),
            None => match head.headers.get(name) {
                Some(value) => value.as_bytes().trim_ascii(),
                None => return Self::Missing,
            },
        };
        match addr(text) {
            Some(addr) => addr,
            None if is_host => Self::host(text),
            None => Self::Text(text),
        }
    }

    fn host(text: &[u8]) -> Self {
        let name = match text.iter().rposition(|byte| *byte == b':') {
            Some(colon) => &text[..colon],
            None => text,
        };
        let dots = name.iter().rev().take_while(|byte| **byte == b'.').count();
        let name = &name[..name.len() - dots];
        Self::Host(name.iter().map(u8::to_ascii_lowercase).collect())
    }
}

fn addr<'a>(text: &[u8]) -> Option<HeaderField<'a>> {
    // Most other text does not start with these characters.
    let may_be = text
        .first()
        .is_some_and(|byte| byte.is_ascii_hexdigit() || b"[\":".contains(byte));
    let text = match text {
        [b'"', inner @ .., b'"'] => inner,
        text => text,
    };
    let ip = may_be.then(|| parse_node(text)).flatten()?;
    Some(HeaderField::Addr(ClientAddr::from(ip).partition_bytes()))
}

fn is_host(name: &HeaderName) -> bool {
    name == HOST || name == "x-forwarded-host"
}

/// Returns the method if it is `PATCH` or is defined in RFC 9110. Clients can invent any number of
/// other methods.
pub(super) fn known_method(method: &Method) -> Option<&str> {
    match *method {
        Method::GET
        | Method::HEAD
        | Method::POST
        | Method::PUT
        | Method::DELETE
        | Method::CONNECT
        | Method::OPTIONS
        | Method::TRACE
        | Method::PATCH => Some(method.as_str()),
        _ => None,
    }
}
