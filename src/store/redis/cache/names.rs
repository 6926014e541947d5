//! The names by which entries are purged, in the server's format.

use crate::{
    cache::backend::{CacheKey, PurgeTarget, StoredResponse},
    core::store_api::store_key::StoreKey,
    store::redis::connection::client::push_base64,
};

/// The length of a name, which consists of its kind and a digest.
pub(in crate::store) const NAME_BYTES: usize = 17;

/// Concatenated names, each of which has [`NAME_BYTES`] bytes.
pub(crate) struct PurgeNames(Vec<u8>);

impl PurgeNames {
    /// Returns the names of an entry.
    pub(crate) fn of(key: &CacheKey, entry: &StoredResponse) -> Self {
        let own = [
            PurgeTarget::All,
            PurgeTarget::Uri(*key.uri()),
            PurgeTarget::Partition(*entry.partition()),
        ];
        let tags = entry.tags().iter().map(|tag| PurgeTarget::Tag(*tag));
        own.into_iter().chain(tags).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the keys of these names' tokens. All keys start with `start`.
    pub(crate) fn token_keys(&self, start: &[u8]) -> Vec<Vec<u8>> {
        let key_of = |name: &[u8]| {
            let (kind, digest) = name.split_at(1);
            let mut key = [start, kind].concat();
            push_base64(&mut key, digest);
            key
        };
        self.0.chunks(NAME_BYTES).map(key_of).collect()
    }
}

impl FromIterator<PurgeTarget> for PurgeNames {
    fn from_iter<T: IntoIterator<Item = PurgeTarget>>(targets: T) -> Self {
        Self(targets.into_iter().flat_map(name_of).collect())
    }
}

fn name_of(target: PurgeTarget) -> [u8; NAME_BYTES] {
    let (kind, digest) = match target {
        PurgeTarget::Uri(uri) => (b'u', uri),
        PurgeTarget::Tag(tag) => (b't', tag),
        PurgeTarget::Partition(partition) => (b'p', partition),
        PurgeTarget::All => (b'a', StoreKey::from_bytes([0; 16])),
    };
    let mut name = [kind; NAME_BYTES];
    name[1..].copy_from_slice(digest.as_bytes());
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_key_is_a_kind_and_a_digest_of_fixed_length() {
        let tag = PurgeTarget::Tag(StoreKey::from_bytes([0xfb; 16]));
        let names: PurgeNames = [PurgeTarget::All, tag].into_iter().collect();
        assert_eq!(names.as_bytes().len(), 2 * NAME_BYTES);
        assert_eq!(
            names.token_keys(b"acme:n:{AA}:"),
            [
                b"acme:n:{AA}:aAAAAAAAAAAAAAAAAAAAAAA".to_vec(),
                b"acme:n:{AA}:t-_v7-_v7-_v7-_v7-_v7-w".to_vec(),
            ]
        );
    }
}
