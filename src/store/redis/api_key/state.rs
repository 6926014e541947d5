//! The Redis keys for API keys, and the subscription to changes of API keys.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    api_key::{KeyId, backend::KeyChangeFeed},
    core::store_api::store_key::{KeySpace, StoreKeys},
    store::redis::{
        api_key::acknowledge::acknowledge,
        connection::{
            client::Link,
            pubsub::{Listening, News, OnNews},
        },
    },
};

/// The state that this process has for API keys.
pub(crate) struct ApiKeyNames {
    pub(super) names: KeyDataNames,
    pub(super) owners: KeySpace,
    pub(super) changes: KeyChangeFeed,
    /// The subscription to changes, which starts with the first lookup.
    listening: Mutex<Option<Listening>>,
}

/// The Redis keys of the API key records and their indexes.
pub(super) struct KeyDataNames {
    pub(super) records: Vec<u8>,
    pub(super) uses: Vec<u8>,
    pub(super) all: Vec<u8>,
    pub(super) ends: Vec<u8>,
    /// The prefix of the keys of the per-owner indexes.
    pub(super) owners: Vec<u8>,
    pub(super) channel: Vec<u8>,
}

impl ApiKeyNames {
    pub(crate) fn new(link: &Link, keys: &StoreKeys) -> Self {
        let slot = link.key("k", b"keys");
        let name = |of: &str| [&slot, of.as_bytes()].concat();
        Self {
            names: KeyDataNames {
                records: name(":records"),
                uses: name(":uses"),
                all: name(":all"),
                ends: name(":ends"),
                owners: name(":owner:"),
                channel: link.name("keys"),
            },
            owners: keys.space("portcullis-v1 owner of keys"),
            changes: KeyChangeFeed::new(),
            listening: Mutex::default(),
        }
    }

    /// Subscribes to changes, unless a subscription is open.
    pub(super) fn listen(&self, link: &Arc<Link>) {
        let mut listening = self
            .listening
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if listening.as_ref().is_none_or(Listening::is_over) {
            let changes = self.changes.clone();
            // A weak reference, so that the subscription does not keep the connections open.
            let own = Arc::downgrade(link);
            let on_news: OnNews = Arc::new(move |news| match &news {
                News::Message(message) if acknowledge(&own, message) => {}
                News::Up | News::Down | News::Message(_) => pass_on(&changes, &news),
            });
            *listening = Some(link.listen(self.names.channel.clone(), on_news));
        }
    }

    /// Returns a fixed-length digest of an owner's name.
    pub(super) fn owner(&self, owner: &str) -> String {
        self.owners.short_key(owner.as_bytes()).to_string()
    }

    pub(super) fn order_of(&self, owner: &str) -> Vec<u8> {
        [&self.names.owners, self.owner(owner).as_bytes()].concat()
    }
}

/// Passes an event to the key rings.
fn pass_on(changes: &KeyChangeFeed, news: &News) {
    match news {
        News::Up => changes.notify_connected(),
        News::Down => changes.notify_lost(),
        News::Message(message) => match id_in(message) {
            Some(id) => changes.notify_changed(id),
            // The message cannot be parsed, so all cached keys are invalidated.
            None => changes.notify_connected(),
        },
    }
}

/// Returns the key id in a message. A version may follow the id.
fn id_in(message: &[u8]) -> Option<KeyId> {
    let text = std::str::from_utf8(message).ok()?;
    text.split(' ').next()?.parse().ok()
}

impl fmt::Debug for ApiKeyNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKeyNames")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_names_its_key_and_other_messages_name_none() {
        let id: KeyId = "1AAAAAAAAAAAAAAA".parse().unwrap();
        assert_eq!(id_in(b"1AAAAAAAAAAAAAAA 7"), Some(id));
        assert_eq!(id_in(b"1AAAAAAAAAAAAAAA"), Some(id));
        for odd in [&b""[..], b" 7", b"\xff", b"FLUSHALL"] {
            assert_eq!(id_in(odd), None, "{odd:?}");
        }
    }
}
