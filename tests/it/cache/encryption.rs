//! Encrypted cache entries, under an attacker that reads and modifies the store.

#[cfg(feature = "test-util")]
use std::time::Duration;
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::Method;
use portcullis::{
    ManualClock, StoreFuture,
    cache::{CacheLayer, CacheStore, Purge, PurgeMode},
    store::{
        EncryptedStore, EncryptionKey, MemoryStore, StoreKeys,
        backend::{
            CacheKey, Found, Lookup, PurgeTarget, Put, PutOutcome, Selection, StoredResponse, Touch,
        },
    },
};

use super::cache::{App, Handler, caller, get_as, get_with, response_with};
use crate::support::request;
#[cfg(feature = "test-util")]
use crate::support::slow_store::SlowStore;
#[cfg(feature = "test-util")]
use portcullis::conformance;

type Entry = Arc<StoredResponse>;

/// The attacker's replacement for an entry that is looked up.
type Hand = dyn Fn(&CacheKey, &Kept, &Entry) -> Entry + Send + Sync;

/// All entries that were ever stored, by key.
type Kept = HashMap<CacheKey, Vec<Entry>>;

/// A store under the control of an attacker that reads all of it and can change what it returns.
#[derive(Clone)]
struct Spied {
    memory: MemoryStore,
    kept: Arc<Mutex<Kept>>,
    hand: Arc<Hand>,
}

impl Spied {
    fn new(clock: &ManualClock) -> Self {
        Self {
            memory: MemoryStore::with_clock(clock.clone()),
            kept: Arc::default(),
            hand: Arc::new(|_, _, entry| Arc::clone(entry)),
        }
    }

    fn with_hand(
        self,
        hand: impl Fn(&CacheKey, &Kept, &Entry) -> Entry + Send + Sync + 'static,
    ) -> Self {
        Self {
            hand: Arc::new(hand),
            ..self
        }
    }

    /// Returns all bytes of it in one piece.
    fn bytes(&self) -> Vec<u8> {
        let kept = self.kept.lock().unwrap();
        let entries = kept.values().flatten();
        entries
            .flat_map(|entry| entry.to_bytes().unwrap())
            .collect()
    }

    fn keep(&self, key: CacheKey, entry: &Entry) {
        let mut kept = self.kept.lock().unwrap();
        kept.entry(key).or_default().push(Arc::clone(entry));
    }
}

impl fmt::Debug for Spied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Spied")
    }
}

impl CacheStore for Spied {
    fn keys(&self) -> &StoreKeys {
        CacheStore::keys(&self.memory)
    }

    fn get(&self, key: &CacheKey, selection: &Selection<'_>) -> StoreFuture<Lookup> {
        let found = self.memory.get(key, selection).into_ready();
        let mut lookup = found.ready().unwrap().unwrap();
        if let Found::Entry { entry, .. } = &mut lookup.found {
            *entry = (self.hand)(key, &self.kept.lock().unwrap(), entry);
        }
        StoreFuture::ready(lookup)
    }

    fn put(&self, put: Put) -> StoreFuture<PutOutcome> {
        self.keep(put.key, &put.entry);
        self.memory.put(put)
    }

    fn touch(&self, touch: Touch) -> StoreFuture<bool> {
        self.keep(touch.key, &touch.entry);
        CacheStore::touch(&self.memory, touch)
    }

    fn purge(&self, targets: &[PurgeTarget], mode: PurgeMode) -> StoreFuture<()> {
        CacheStore::purge(&self.memory, targets, mode)
    }

    fn has_timeout(&self) -> bool {
        true
    }
}

fn key(id: u16) -> EncryptionKey {
    let secret: Vec<u8> = (0..32).map(|byte| byte ^ id as u8).collect();
    EncryptionKey::new(id, secret).unwrap()
}

fn encrypted(store: Spied, now: u16, previous: &[u16]) -> EncryptedStore<Spied> {
    let builder = EncryptedStore::builder(store, key(now));
    let previous = previous.iter().map(|id| key(*id));
    previous
        .fold(builder, |builder, key| builder.previous_key(key))
        .build()
        .unwrap()
}

fn app(store: impl CacheStore, clock: &ManualClock, handler: Handler) -> App {
    App::built(handler, clock.clone(), CacheLayer::secure(store))
}

/// Answers with secrets in every part, which name the URL.
fn secretive() -> Handler {
    Handler::new(|request, call| {
        let fields = &[
            ("cache-control", "max-age=60"),
            ("x-secret-name", "secret-value"),
            ("surrogate-key", "secret-tag"),
            ("vary", "accept"),
        ];
        response_with(
            fields,
            format!("secret-body {} {call}", request.uri().path()),
        )
    })
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|part| part == text.as_bytes())
}

const SECRETS: [&str; 5] = [
    "secret-name",
    "secret-value",
    "secret-body",
    "secret-path",
    "secret-caller",
];

#[tokio::test]
async fn stored_entries_disclose_no_part_of_a_response() {
    let clock = ManualClock::default();
    let spied = Spied::new(&clock);
    let app_with = |store| app(store, &clock, secretive());
    let caller = caller("secret-caller");
    let encrypting = app_with(encrypted(spied.clone(), 1, &[]));
    let ask = || get_as("/secret-path", &caller);
    assert!(!encrypting.send(ask()).await.is_hit());
    let hit = encrypting.send(ask()).await;
    assert!(hit.is_hit());
    assert_eq!(hit.body, "secret-body /secret-path 1");
    assert_eq!(hit.header("x-secret-name"), Some("secret-value"));
    let bytes = spied.bytes();
    assert!(!bytes.is_empty());
    for secret in SECRETS {
        assert!(!holds(&bytes, secret), "{secret} can be read");
    }

    // The spy does see what is not encrypted.
    let open = Spied::new(&clock);
    let plain = App::built(secretive(), clock.clone(), CacheLayer::secure(open.clone()));
    plain.send(ask()).await;
    assert!(holds(&open.bytes(), "secret-body"));
}

#[tokio::test]
async fn swapped_entry_is_a_miss() {
    // An attacker with write access to the store swaps the entries of two callers.
    let swap = |key: &CacheKey, kept: &Kept, entry: &Entry| {
        let other = kept.iter().find(|(other, _)| *other != key);
        let other = other.map(|(_, entries)| entries.last().unwrap());
        Arc::clone(other.unwrap_or(entry))
    };
    let clock = ManualClock::default();
    let spied = Spied::new(&clock).with_hand(swap);
    let (one, two) = (caller("one"), caller("two"));
    let encrypting = app(encrypted(spied.clone(), 1, &[]), &clock, secretive());
    for (caller, path, calls) in [(&one, "/one", 1), (&two, "/two", 2), (&one, "/one", 3)] {
        let seen = encrypting.send(get_as(path, caller)).await;
        assert_eq!(seen.body, format!("secret-body {path} {calls}"));
        assert!(!seen.is_hit());
    }

    // Unencrypted entries are not protected from that.
    let plain = Spied::new(&clock).with_hand(swap);
    let plain = app(plain, &clock, secretive());
    plain.send(get_as("/one", &one)).await;
    plain.send(get_as("/two", &two)).await;
    let seen = plain.send(get_as("/one", &one)).await;
    assert_eq!(seen.body, "secret-body /two 2");
}

#[tokio::test]
async fn modified_entry_is_a_miss() {
    type Change = fn(&Kept, &CacheKey, &Entry) -> StoredResponse;
    let changes: [(&str, Change); 7] = [
        ("a body without its last byte", |_, _, entry| {
            let body = entry.body().slice(..entry.body().len() - 1);
            entry.seal(entry.sealed_head().unwrap().clone(), body)
        }),
        ("a head of its first bytes alone", |_, _, entry| {
            let head = entry.sealed_head().unwrap().slice(..20);
            entry.seal(head, entry.body().clone())
        }),
        ("a bit of the body", |_, _, entry| {
            let mut body = entry.body().to_vec();
            body[40] ^= 1;
            entry.seal(entry.sealed_head().unwrap().clone(), body.into())
        }),
        ("a bit of the head", |_, _, entry| {
            let mut head = entry.sealed_head().unwrap().to_vec();
            head[40] ^= 1;
            entry.seal(head.into(), entry.body().clone())
        }),
        ("no body", |_, _, entry| {
            entry.seal(entry.sealed_head().unwrap().clone(), Bytes::new())
        }),
        ("head and body in each other's place", |_, _, entry| {
            entry.seal(entry.body().clone(), entry.sealed_head().unwrap().clone())
        }),
        ("the body of an earlier answer", |kept, key, entry| {
            let head = entry.sealed_head().unwrap().clone();
            entry.seal(head, kept[key][0].body().clone())
        }),
    ];
    for (what, change) in changes {
        let clock = ManualClock::default();
        let spied = Spied::new(&clock);
        let honest = app(encrypted(spied.clone(), 1, &[]), &clock, secretive());
        honest.get("/a").await;
        honest
            .purger
            .purge([Purge::All], PurgeMode::Hard)
            .await
            .unwrap();
        honest.get("/a").await;
        assert!(honest.get("/a").await.is_hit());
        let changing = spied.with_hand(move |key, kept, entry| Arc::new(change(kept, key, entry)));
        let seen = app(encrypted(changing, 1, &[]), &clock, secretive())
            .get("/a")
            .await;
        assert!(!seen.is_hit(), "{what} was accepted as an entry");
        assert_eq!(seen.body, "secret-body /a 1", "{what}");
    }
}

#[tokio::test]
async fn previous_key_only_decrypts_and_new_entries_use_the_current_key() {
    let clock = ManualClock::default();
    let spied = Spied::new(&clock);
    let with =
        |now, previous: &[u16]| app(encrypted(spied.clone(), now, previous), &clock, secretive());
    with(1, &[]).get("/a").await;
    // The new key is distributed to all instances before the first one encrypts under it.
    assert!(with(1, &[2]).get("/a").await.is_hit());
    let rotated = with(2, &[1]);
    assert!(rotated.get("/a").await.is_hit());
    rotated.get("/b").await;
    assert!(with(1, &[2]).get("/b").await.is_hit());
    // Without the previous key, only entries under the latest key are readable.
    let latest = with(2, &[]);
    assert!(latest.get("/b").await.is_hit());
    assert!(!latest.get("/a").await.is_hit());
    assert!(latest.get("/a").await.is_hit(), "it was not stored again");
    // A foreign key decrypts nothing, under any ID.
    let stranger = EncryptionKey::new(2, [&[7; 31][..], b"x"].concat()).unwrap();
    let stranger = EncryptedStore::builder(spied.clone(), stranger)
        .build()
        .unwrap();
    assert!(!app(stranger, &clock, secretive()).get("/b").await.is_hit());
}

/// Answers that are validated once they are stale.
fn validating() -> Handler {
    Handler::new(|request, call| {
        let fields = &[("cache-control", "max-age=1"), ("etag", "\"1\"")];
        let mut response = response_with(fields, format!("call {call}"));
        if request.headers().contains_key("if-none-match") {
            *response.status_mut() = http::StatusCode::NOT_MODIFIED;
            *response.body_mut() = http_body_util::Full::default();
        }
        response
    })
}

#[tokio::test]
async fn revalidation_reencrypts_the_head_and_preserves_the_body() {
    let clock = ManualClock::default();
    let spied = Spied::new(&clock);
    let app = app(encrypted(spied.clone(), 1, &[]), &clock, validating());
    app.get("/a").await;
    app.advance_secs(2);
    assert!(
        app.get("/a")
            .await
            .cache_status()
            .contains("fwd-status=304")
    );
    let hit = app.get("/a").await;
    assert!(hit.is_hit() && hit.body == "call 1");
    let kept = spied.kept.lock().unwrap();
    let [first, second] = &kept.values().next().unwrap()[..] else {
        panic!("one put and one touch");
    };
    assert_eq!(first.body(), second.body());
    assert_ne!(first.sealed_head(), second.sealed_head());
}

#[tokio::test]
async fn revalidation_does_not_extend_entries_of_a_previous_key() {
    let clock = ManualClock::default();
    let spied = Spied::new(&clock);
    let before = app(encrypted(spied.clone(), 1, &[]), &clock, validating());
    before.get("/a").await;
    let after = app(encrypted(spied.clone(), 2, &[1]), &clock, validating());
    after.advance_secs(2);
    assert!(
        after
            .get("/a")
            .await
            .cache_status()
            .contains("fwd-status=304")
    );
    assert_eq!(spied.kept.lock().unwrap().values().flatten().count(), 1);
}

#[tokio::test]
async fn plain_and_encrypted_entries_are_misses_to_each_other() {
    let clock = ManualClock::default();
    let spied = Spied::new(&clock);
    let plain = app(spied.clone(), &clock, secretive());
    let encrypting = app(encrypted(spied.clone(), 1, &[]), &clock, secretive());
    plain.get("/a").await;
    assert!(!encrypting.get("/a").await.is_hit());
    assert!(encrypting.get("/a").await.is_hit());
    // A cache that has no key shows nothing of it.
    let seen = plain.get("/a").await;
    assert!(!seen.is_hit());
    assert_eq!(seen.body, "secret-body /a 2");
}

#[tokio::test]
async fn encrypted_entries_support_purges_and_variants() {
    let clock = ManualClock::default();
    let app = app(encrypted(Spied::new(&clock), 1, &[]), &clock, secretive());
    let get = |accept| get_with("/a", &[("accept", accept)]);
    for accept in ["x", "y"] {
        assert!(!app.send(get(accept)).await.is_hit());
    }
    for (accept, call) in [("x", 1), ("y", 2)] {
        let seen = app.send(get(accept)).await;
        assert!(seen.is_hit() && seen.body.ends_with(&format!(" {call}")));
    }
    let tag = Purge::tag("secret-tag");
    app.purger.purge([tag], PurgeMode::Hard).await.unwrap();
    assert!(!app.send(get("x")).await.is_hit());
    app.send(request(Method::POST, "/a")).await;
    assert!(!app.send(get("x")).await.is_hit());
}

#[test]
fn two_keys_of_one_id_are_refused() {
    let builder = EncryptedStore::builder(MemoryStore::new(), key(1));
    let error = builder.previous_key(key(1)).build().unwrap_err();
    assert_eq!((error.option(), error.value()), ("previous_key", "1"));
}

#[test]
fn an_encrypted_store_has_the_deadline_of_the_one_that_it_wraps() {
    let spied = Spied::new(&ManualClock::default());
    assert!(encrypted(spied, 1, &[]).has_timeout());
    let memory = EncryptedStore::builder(MemoryStore::new(), key(1)).build();
    assert!(!memory.unwrap().has_timeout());
}

#[cfg(feature = "test-util")]
#[tokio::test]
async fn an_encrypted_store_keeps_every_promise() {
    let clock = ManualClock::default();
    let store = encrypted(Spied::new(&clock), 2, &[1]);
    conformance::cache(&store, async |time: Duration| clock.advance(time)).await;
    let slow = SlowStore::over(MemoryStore::with_clock(clock.clone()));
    let store = EncryptedStore::builder(slow, key(1)).build().unwrap();
    conformance::cache(&store, async |time: Duration| clock.advance(time)).await;
}
