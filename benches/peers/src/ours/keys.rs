//! Our API keys.

use axum::body::Body;
use http::{HeaderName, HeaderValue, Request};
use portcullis::{
    Identity,
    api_key::{ApiKeyLayer, KeyManager, KeyRing, NewKey, Pepper},
    store::MemoryStore,
};
use tower::{Layer, Service, util::MapRequest};

use crate::harness::Case;
use crate::workload::{Requests, drive, next_client, origin};

pub fn cases() -> Vec<Case> {
    let keys = Keys::new();
    vec![Case::ours(
        "keys/warm",
        drive(keys.layer().layer(origin()), keys.requests()),
    )]
}

/// A ring with a key for each client.
pub struct Keys {
    ring: KeyRing,
    secrets: Vec<HeaderValue>,
    identities: Vec<Identity>,
}

impl Keys {
    pub fn new() -> Self {
        let ring = KeyRing::builder("peers", MemoryStore::new())
            .pepper(Pepper::random(1))
            .build()
            .expect("the prefix is valid");
        let manager = KeyManager::new(&ring);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime without I/O");
        let (secrets, identities) = (0..1024)
            .map(|client| {
                let created = manager.create(NewKey::new(format!("client-{client}")));
                let key = runtime.block_on(created).expect("the store has room");
                let secret = HeaderValue::try_from(key.expose_secret()).expect("keys are ASCII");
                (secret, key.record().identity().clone())
            })
            .unzip();
        Self {
            ring,
            secrets,
            identities,
        }
    }

    pub fn layer(&self) -> ApiKeyLayer {
        ApiKeyLayer::builder(&self.ring)
            .build()
            .expect("the defaults are valid")
    }

    pub fn secrets(&self) -> &[HeaderValue] {
        &self.secrets
    }

    /// Inserts the identity of the next client into each request, as the API key layer does.
    ///
    /// The order of clients is that of [`Keys::requests`].
    pub fn identified<S>(
        &self,
        service: S,
    ) -> impl Service<Request<Body>, Response = S::Response, Error = S::Error> + use<S>
    where
        S: Service<Request<Body>>,
    {
        let (identities, mut client) = (self.identities.clone(), 0);
        MapRequest::new(service, move |mut request: Request<Body>| {
            client = next_client(client);
            request.extensions_mut().insert(identities[client].clone());
            request
        })
    }

    pub fn requests(&self) -> Requests {
        let header = HeaderName::from_static("x-api-key");
        Requests::bearing(header, self.secrets.iter().cloned())
    }
}
