//! The facts that are known when a request arrives.

use std::{net::SocketAddr, sync::OnceLock};

use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version,
    header::{CONTENT_LENGTH, HOST},
};

use super::{
    record::{Arrival, Client},
    redact, request_id,
    trace_context::TraceContext,
    trust::Trust,
};
use crate::{
    access_log::config::AccessLogConfig,
    core::{framework, http::request_id::RequestId, net::client_addr},
};

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The head of a request, independent of its body type.
pub(crate) struct Call<'a> {
    method: &'a Method,
    uri: &'a Uri,
    version: Version,
    headers: &'a HeaderMap,
    extensions: &'a Extensions,
    peer: Option<SocketAddr>,
}

impl<'a> Call<'a> {
    pub(crate) fn of<B>(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            version: request.version(),
            headers: request.headers(),
            extensions: request.extensions(),
            peer: client_addr::peer_addr(request.extensions()).copied(),
        }
    }

    fn is_from(&self, trust: &Trust) -> bool {
        trust.believes(self.peer.map(|peer| peer.ip()))
    }
}

/// Returns the facts that are known when a request arrives.
// Inlined, so that the value is built in its final place.
#[inline(always)]
pub(crate) fn arrival(config: &AccessLogConfig, call: &Call<'_>) -> Arrival {
    let started = config.clock.now();
    let at = config.clock.wall();
    let inbound = inbound(config, call);
    Arrival {
        at,
        started,
        uid: inbound.as_ref().map(|_| request_id::generate(at)),
        request_id: inbound.unwrap_or_else(|| request_id::generate(at)),
        host: host(call),
        trace: trace(config, call),
        inner_span: OnceLock::new(),
        client: client(config, call),
        method: call.method.clone(),
        uri: call.uri.clone(),
        version: call.version,
        headers: config.redaction.request_headers(call.headers),
        bytes_declared: content_length(call.headers),
        route: framework::matched_path(call.extensions).map(str::to_owned),
        head: OnceLock::new(),
    }
}

/// Returns the request id that the client sent, if it is trusted and contains no API key.
fn inbound(config: &AccessLogConfig, call: &Call<'_>) -> Option<RequestId> {
    if !call.is_from(&config.trust_request_id) {
        return None;
    }
    let sent = RequestId::accept(call.headers.get(X_REQUEST_ID)?)?;
    (!redact::holds_key(sent.as_str())).then_some(sent)
}

fn host(call: &Call<'_>) -> Option<HeaderValue> {
    match call.uri.authority() {
        Some(_) => None,
        None => call.headers.get(HOST).cloned(),
    }
}

fn trace(config: &AccessLogConfig, call: &Call<'_>) -> Option<TraceContext> {
    let sent = TraceContext::of(call.headers)?;
    call.is_from(&config.trust_traceparent).then_some(sent)
}

fn client(config: &AccessLogConfig, call: &Call<'_>) -> Option<Client> {
    let peer = call.peer?;
    let peer_ip = peer.ip().to_canonical();
    let addr = config
        .client_addr
        .get()
        .resolve_behind(peer_ip, call.headers);
    Some(Client {
        addr: addr.ip(),
        peer,
        masked: config.mask_client_addr,
    })
}

/// Returns the declared length of a body (`Content-Length`).
pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(CONTENT_LENGTH)?.to_str().ok()?;
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| value.parse().ok()).flatten()
}
