//! Requests as a server creates them: five headers and the client address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};

use axum::body::Body;
use axum::extract::ConnectInfo;
use http::header::{ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, HOST, USER_AGENT};
use http::{HeaderName, HeaderValue, Request, Uri};

use super::clients::{CLIENTS, api_keys, next_client};

/// The default header of a client's key.
pub const CREDENTIAL: HeaderName = HeaderName::from_static("x-api-key");

/// Builds requests, one client after the other.
#[derive(Clone)]
pub struct Requests {
    credential: HeaderName,
    credentials: Arc<[HeaderValue]>,
    addresses: Arc<[SocketAddr]>,
    targets: Arc<[Uri]>,
    turn: usize,
}

/// One set of clients for all rows, so that their cache misses are comparable.
static SHARED: LazyLock<Requests> = LazyLock::new(|| Requests {
    credential: CREDENTIAL,
    credentials: api_keys()
        .iter()
        .map(|key| HeaderValue::try_from(key).expect("the keys are ASCII"))
        .collect(),
    addresses: (0..CLIENTS).map(address).collect(),
    targets: (0..CLIENTS).map(target).collect(),
    turn: 0,
});

impl Default for Requests {
    /// Returns requests with [`api_keys`] in [`CREDENTIAL`].
    fn default() -> Self {
        SHARED.clone()
    }
}

impl Requests {
    /// Returns requests with one of `credentials` as fifth header, in turn.
    pub fn bearing(
        credential: HeaderName,
        credentials: impl IntoIterator<Item = HeaderValue>,
    ) -> Self {
        Self {
            credential,
            credentials: credentials.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Returns requests without a key, for shared caches.
    pub fn anonymous() -> Self {
        Self::bearing(ACCEPT_LANGUAGE, [HeaderValue::from_static("en")])
    }

    /// Returns the number of distinct requests.
    pub fn distinct(&self) -> usize {
        CLIENTS
    }

    /// Builds the next client's request.
    pub fn next(&mut self) -> Request<Body> {
        self.turn = next_client(self.turn);
        let client = self.turn;
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = self.targets[client].clone();
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::from_static("api.example.com"));
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static("peers/1.0 (+https://example.com)"),
        );
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip, br"));
        headers.insert(
            &self.credential,
            self.credentials[client % self.credentials.len()].clone(),
        );
        request
            .extensions_mut()
            .insert(ConnectInfo(self.addresses[client]));
        request
    }
}

fn address(client: usize) -> SocketAddr {
    let [.., high, low] = client.to_be_bytes();
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, high, low)), 40_000)
}

fn target(client: usize) -> Uri {
    Uri::try_from(format!("/v1/items/{client}?page=1")).expect("a path with a query is a target")
}
