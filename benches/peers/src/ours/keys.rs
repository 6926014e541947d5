//! Our API keys, beside the peers.

use http::{HeaderName, HeaderValue};
use portcullis::{
    api_key::{ApiKeyLayer, KeyManager, KeyRing, NewKey, Pepper},
    store::MemoryStore,
};
use tower::Layer;

use crate::harness::Case;
use crate::workload::{Requests, drive, origin};

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
        let secrets = (0..1024)
            .map(|client| {
                let created = manager.create(NewKey::of_owner(format!("client-{client}")));
                let key = runtime.block_on(created).expect("the store has room");
                HeaderValue::try_from(key.expose_secret()).expect("keys are ASCII")
            })
            .collect();
        Self { ring, secrets }
    }

    pub fn layer(&self) -> ApiKeyLayer {
        ApiKeyLayer::builder(&self.ring)
            .build()
            .expect("the defaults are valid")
    }

    pub fn requests(&self) -> Requests {
        let header = HeaderName::from_static("x-api-key");
        Requests::bearing(header, self.secrets.iter().cloned())
    }
}
