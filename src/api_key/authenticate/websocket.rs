//! The items of `Sec-WebSocket-Protocol` in a handshake (RFC 6455 section 4).

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header::SEC_WEBSOCKET_PROTOCOL,
};

use super::key_source::{KeySource, NO_TOKEN, is_token};
use crate::core::error::ConfigError;

/// Returns the value that selects a subprotocol, unless it could contain a key.
pub(crate) fn checked_subprotocol(
    name: &str,
    sources: &[KeySource],
) -> Result<HeaderValue, ConfigError> {
    let refused = |problem: &str| {
        ConfigError::new("websocket_subprotocol", name.escape_debug(), problem)
            .fix("use a subprotocol of the service, for example `acme.v1`")
    };
    let mut prefixes = sources.iter().filter_map(KeySource::websocket_prefix);
    if prefixes.any(|prefix| name.starts_with(prefix)) {
        return Err(refused("it starts with the prefix of a key"));
    }
    match HeaderValue::from_str(name) {
        Ok(value) if is_token(name) => Ok(value),
        Ok(_) | Err(_) => Err(refused(NO_TOKEN)),
    }
}

/// Returns the offered items of all lines, in order, without the empty ones.
fn items(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .flat_map(items_of)
}

fn items_of(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let items = line.as_bytes().split(|byte| *byte == b',');
    items
        .map(<[u8]>::trim_ascii)
        .filter(|item| !item.is_empty())
}

/// Returns the rest of each item with this prefix.
pub(super) fn keys<'a>(headers: &'a HeaderMap, prefix: &str) -> impl Iterator<Item = &'a [u8]> {
    items(headers).filter_map(move |item| item.strip_prefix(prefix.as_bytes()))
}

/// Removes the items with this prefix, and the lines without another item.
pub(super) fn strip(prefix: &str, headers: &mut HeaderMap) {
    if keys(headers, prefix).next().is_none() {
        return;
    }
    let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let kept: Vec<HeaderValue> = lines
        .filter_map(|line| {
            let kept = items_of(line).filter(|item| !item.starts_with(prefix.as_bytes()));
            let joined = kept.collect::<Vec<_>>().join(&b", "[..]);
            HeaderValue::from_bytes(&joined).ok()
        })
        .filter(|line| !line.is_empty())
        .collect();
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    for line in kept {
        headers.append(SEC_WEBSOCKET_PROTOCOL, line);
    }
}

/// A handshake in which the client offers the subprotocol of the layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handshake {
    /// The status of a response that opens the connection: `101`, or `200` for the extended
    /// CONNECT of HTTP/2 and HTTP/3 (RFC 8441, RFC 9220).
    opened: StatusCode,
}

impl Handshake {
    /// Returns the handshake if the request offers this subprotocol.
    pub(crate) fn of<B>(request: &Request<B>, subprotocol: &HeaderValue) -> Option<Self> {
        let is_offered = items(request.headers()).any(|item| item == subprotocol.as_bytes());
        let opened = match *request.method() {
            Method::CONNECT => StatusCode::OK,
            _ => StatusCode::SWITCHING_PROTOCOLS,
        };
        is_offered.then_some(Self { opened })
    }

    /// Selects the subprotocol if the response opens the connection and selects none.
    pub(crate) fn select<B>(self, subprotocol: &HeaderValue, response: &mut Response<B>) {
        if response.status() == self.opened {
            let field = response.headers_mut().entry(SEC_WEBSOCKET_PROTOCOL);
            field.or_insert_with(|| subprotocol.clone());
        }
    }
}
