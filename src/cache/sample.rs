//! Sample entries for the conformance suite for stores.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode};

use super::{
    entry::{
        entry::StoredResponse,
        key::{CacheKey, KeyMaker, Partition, RequestTarget},
    },
    http::{
        freshness::Freshness,
        vary::{Selection, VarySpec},
    },
    store::PurgeTarget,
};
use crate::core::{store_api::store_key::StoreKeys, time::Timestamp};

/// The parts of a sample entry.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    /// The caller that the entry belongs to. `None` for a shared entry.
    pub(crate) caller: Option<u8>,
    /// The fields of the request.
    pub(crate) asked: HeaderMap,
    pub(crate) vary: Vec<HeaderName>,
    pub(crate) tags: Vec<&'static str>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Creates keys and entries in a namespace.
#[derive(Debug)]
pub(crate) struct Samples(KeyMaker);

impl Samples {
    pub(crate) fn new(keys: &StoreKeys, namespace: &str) -> Self {
        Self(KeyMaker::new(keys, namespace, false))
    }

    pub(crate) fn key(&self, sample: &Sample) -> CacheKey {
        let digest = sample.caller.map(|caller| [caller; 32]);
        let shared = self.0.shared(&target(sample));
        match &digest {
            None => shared,
            Some(digest) => self.0.own(&shared, digest, None),
        }
    }

    pub(crate) fn entry(&self, sample: &Sample) -> Arc<StoredResponse> {
        let vary = VarySpec::from_names(sample.vary.clone());
        let vary = vary.expect("a sample varies by few fields");
        let variant = self.selection(&sample.asked, None).variant(&vary);
        let digest = sample.caller.map(|caller| [caller; 32]);
        Arc::new(StoredResponse {
            status: StatusCode::OK,
            headers: sample.headers.clone(),
            body: sample.body.clone(),
            freshness: Freshness {
                received_at: Timestamp::from_secs(1_000_000_000),
                lifetime_secs: 60,
                ..Freshness::default()
            },
            vary,
            variant,
            partition: self.0.partition(partition(digest.as_ref())),
            says_shared: sample.caller.is_none(),
            tags: sample
                .tags
                .iter()
                .map(|tag| self.0.tag(tag.as_bytes()))
                .collect(),
            packed: None,
            seal: None,
        })
    }

    pub(crate) fn selection<'a>(
        &'a self,
        asked: &'a HeaderMap,
        hint: Option<&'a VarySpec>,
    ) -> Selection<'a> {
        let selection = Selection::new(asked, self.0.variants());
        match hint {
            Some(hint) => selection.with_hint(hint),
            None => selection,
        }
    }

    /// Selects the entries of a sample's URL.
    pub(crate) fn uri(&self, sample: &Sample) -> PurgeTarget {
        PurgeTarget::Uri(self.0.uri(&target(sample)))
    }

    /// Selects the entries with a tag.
    pub(crate) fn tag(&self, tag: &str) -> PurgeTarget {
        PurgeTarget::Tag(self.0.tag(tag.as_bytes()))
    }

    /// Selects the entries of one caller.
    pub(crate) fn caller(&self, caller: u8) -> PurgeTarget {
        PurgeTarget::Partition(self.0.partition(partition(Some(&[caller; 32]))))
    }
}

impl Sample {
    /// Returns an entry whose head was received later by this duration.
    pub(crate) fn later(entry: &StoredResponse, by: Duration) -> Arc<StoredResponse> {
        let mut later = entry.clone();
        later.freshness.received_at = later.freshness.received_at + by;
        Arc::new(later)
    }
}

fn target(sample: &Sample) -> RequestTarget<'_> {
    RequestTarget {
        scheme: "https",
        authority: b"suite.example",
        path: &sample.path,
        query: sample.query.as_deref(),
        inner: None,
        rerouting: None,
        vary_by: None,
    }
}

fn partition(digest: Option<&[u8; 32]>) -> Partition<'_> {
    digest.map_or(Partition::Shared, Partition::Own)
}
