//! Guessed credentials: the failure limit runs before the verifiers, and never blocks a good key.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use portcullis::{
    Identity, ManualClock, PeerAddr, StoreErrorKind, StoreFuture, Timestamp,
    api_key::{
        ApiKeyLayer, ApiKeyLayerBuilder, ApiKeyStore, Credential, KeyId, KeyManager, KeyQuery,
        KeyRing, KeySource, NewKey, Verdict, Verifier,
        import::{ImportedHash, ImportedKey, ImportedKeys},
        record::{KeyPage, StoredKey},
    },
    outcome::AuthDenial,
    store::{
        MemoryStore,
        backend::{ChangeNotifications, KeyChangeFeed, KeyUse},
    },
};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::api_key::{
    ApiKeyResponse, Keys, challenges, denial, forged, pepper, send, unknown_key, with_header,
    with_key,
};
use crate::support::{header, slow_store::SlowStore, text};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

fn at(mut request: Request<Full<Bytes>>, address: &str) -> Request<Full<Bytes>> {
    let address: SocketAddr = format!("{address}:4711").parse().unwrap();
    request.extensions_mut().insert(PeerAddr(address));
    request
}

fn bearer(token: &str) -> Request<Full<Bytes>> {
    with_header("authorization", &format!("Bearer {token}"))
}

const NAT: &str = "203.0.113.9";

/// Accepts one token; the others get the configured verdict.
#[derive(Clone)]
struct Tokens {
    asked: Arc<AtomicUsize>,
    is_slow: bool,
    others: fn() -> Result<Verdict, StoreErrorKind>,
}

impl Tokens {
    fn new(is_slow: bool, others: fn() -> Result<Verdict, StoreErrorKind>) -> Self {
        let asked = Arc::default();
        Self {
            asked,
            is_slow,
            others,
        }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Verifier for Tokens {
    fn verify(&self, credential: &Credential<'_>) -> StoreFuture<Verdict> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let verified = match credential.expose_secret() {
            b"0042" => Ok(Verdict::Caller(
                Identity::builder("bob").owner("bob").build(),
            )),
            _ => (self.others)(),
        };
        let verified = verified.map_err(Into::into);
        match self.is_slow {
            false => verified.into(),
            true => StoreFuture::pending(async move {
                tokio::task::yield_now().await;
                verified
            }),
        }
    }
}

fn rejected() -> Result<Verdict, StoreErrorKind> {
    Ok(Verdict::Rejected)
}

fn not_mine() -> Result<Verdict, StoreErrorKind> {
    Ok(Verdict::NotRecognized)
}

fn limited(keys: &Keys, verifier: &Tokens) -> ApiKeyLayerBuilder {
    keys.layer()
        .failure_limit(5, MINUTE)
        .verifier(verifier.clone())
}

#[tokio::test]
async fn a_guess_beyond_the_limit_is_not_verified_and_not_let_in() {
    for is_slow in [false, true] {
        for others in [rejected as fn() -> _, not_mine] {
            let (keys, verifier) = (Keys::new(), Tokens::new(is_slow, others));
            let layer = limited(&keys, &verifier).build().unwrap();
            let mut statuses = Vec::new();
            for pin in 0..50 {
                let guess = at(bearer(&format!("{pin:04}")), NAT);
                statuses.push(send(layer.clone(), guess).await.status().as_u16());
            }
            assert_eq!(statuses[..5], [401; 5]);
            assert_eq!(statuses[5..], [429; 45], "the right one is among them");
            assert_eq!(verifier.asked(), 5);
            // From another address it is good.
            let elsewhere = send(layer, at(bearer("0042"), "198.51.100.1")).await;
            assert_eq!(elsewhere.status(), StatusCode::OK);
        }
    }
}

#[tokio::test]
async fn guesses_that_come_at_once_are_counted_before_the_verifier_is_asked() {
    let (keys, verifier) = (Keys::new(), Tokens::new(true, rejected));
    let layer = limited(&keys, &verifier).build().unwrap();
    let guesses = (0..50).map(|pin| {
        let guess = at(bearer(&format!("{pin:04}")), NAT);
        tokio::spawn(send(layer.clone(), guess))
    });
    let guesses: Vec<_> = guesses.collect();
    for guess in guesses {
        assert_ne!(guess.await.unwrap().status(), StatusCode::OK);
    }
    assert_eq!(verifier.asked(), 5);
}

#[tokio::test]
async fn a_credential_that_was_wrong_a_moment_ago_is_not_verified_again() {
    for others in [rejected as fn() -> _, not_mine] {
        let (keys, verifier) = (Keys::new(), Tokens::new(false, others));
        let layer = limited(&keys, &verifier).build().unwrap();
        let ask = || send(layer.clone(), at(bearer("0001"), NAT));
        let reason = denial(&ask().await);
        for _ in 0..20 {
            assert_eq!(denial(&ask().await), reason);
        }
        assert_eq!(verifier.asked(), 1);
        keys.clock.advance(Duration::from_secs(5));
        ask().await;
        assert_eq!(verifier.asked(), 2);
    }
}

/// A credential that the verifier of one layer rejects may be known to that of another layer.
#[tokio::test]
async fn a_credential_that_one_layer_rejects_is_verified_by_another() {
    let (keys, knows) = (Keys::new(), Tokens::new(false, rejected));
    let none = Tokens::new(false, rejected);
    let strict = limited(&keys, &none).sources([KeySource::bearer()]);
    let strict = strict.build().unwrap();
    let layer = limited(&keys, &knows).build().unwrap();
    assert_eq!(
        send(strict, at(bearer("0041"), NAT)).await.status(),
        StatusCode::UNAUTHORIZED
    );
    send(layer, at(bearer("0041"), NAT)).await;
    assert_eq!((none.asked(), knows.asked()), (1, 1));
}

/// A verifier that fails or panics gives no verdict on the credential.
#[tokio::test]
async fn failures_of_a_verifier_are_not_counted() {
    for is_slow in [false, true] {
        for others in [(|| Err(StoreErrorKind::Unavailable)) as fn() -> _, || {
            panic!("as it was asked")
        }] {
            let (keys, verifier) = (Keys::new(), Tokens::new(is_slow, others));
            let layer = limited(&keys, &verifier).build().unwrap();
            for pin in 0..20 {
                let response = send(layer.clone(), at(bearer(&format!("{pin:04}")), NAT)).await;
                assert!(response.status().is_server_error(), "{}", response.status());
            }
            let good = send(layer, at(bearer("0042"), NAT)).await;
            assert_eq!(good.status(), StatusCode::OK);
        }
    }
}

/// A token that was good within the last hour is verified whatever its neighbors guess.
#[tokio::test]
async fn a_good_token_is_verified_behind_an_address_that_has_reached_the_limit() {
    let (keys, verifier) = (Keys::new(), Tokens::new(true, rejected));
    let layer = limited(&keys, &verifier).build().unwrap();
    let good = || send(layer.clone(), at(bearer("0042"), NAT));
    assert_eq!(good().await.status(), StatusCode::OK);
    for minute in 0..180 {
        for pin in 100..106 {
            let guess = at(bearer(&format!("{minute}-{pin}")), NAT);
            send(layer.clone(), guess).await;
        }
        assert_eq!(good().await.status(), StatusCode::OK, "minute {minute}");
        keys.clock.advance(MINUTE);
    }
}

/// A client that opens many connections at once with one token makes one guess.
#[tokio::test]
async fn requests_with_one_token_that_come_at_once_are_one_guess() {
    for (token, status) in [("0042", StatusCode::OK), ("0041", StatusCode::UNAUTHORIZED)] {
        let (keys, verifier) = (Keys::new(), Tokens::new(true, rejected));
        let layer = limited(&keys, &verifier).build().unwrap();
        let requests = (0..50).map(|_| tokio::spawn(send(layer.clone(), at(bearer(token), NAT))));
        let requests: Vec<_> = requests.collect();
        for request in requests {
            assert_eq!(request.await.unwrap().status(), status);
        }
        // Four more wrong ones are counted, and no fifth.
        let mut statuses = Vec::new();
        for pin in 0..6 {
            let guess = at(bearer(&format!("9{pin:03}")), NAT);
            statuses.push(send(layer.clone(), guess).await.status().as_u16());
        }
        let counted = if status == StatusCode::OK { 5 } else { 4 };
        assert!(
            statuses[..counted].iter().all(|status| *status == 401),
            "{statuses:?}"
        );
        assert!(
            statuses[counted..].iter().all(|status| *status == 429),
            "{statuses:?}"
        );
    }
}

/// A request that is dropped while the verifier is asked leaves nothing behind but its failure.
#[tokio::test]
async fn a_dropped_guess_stays_counted() {
    let (keys, verifier) = (Keys::new(), Tokens::new(true, rejected));
    let layer = limited(&keys, &verifier).build().unwrap();
    for pin in 0..5 {
        let guess = send(layer.clone(), at(bearer(&format!("{pin:04}")), NAT));
        let mut guess = std::pin::pin!(guess);
        let waker = std::task::Waker::noop();
        let polled = guess
            .as_mut()
            .poll(&mut std::task::Context::from_waker(waker));
        assert!(polled.is_pending());
    }
    let limited = send(layer, at(bearer("0042"), NAT)).await;
    assert_eq!(denial(&limited), AuthDenial::TooManyFailures);
    assert_eq!(verifier.asked(), 5);
}

const FOREIGN: &str = "sk_prod_9bX2Lh4TqYw7Rz1N";

/// A key that was made elsewhere may be short: its guesses are limited on every store.
#[tokio::test]
async fn a_guessed_foreign_key_is_not_let_in_beyond_the_limit() {
    for slow in [false, true] {
        let clock = ManualClock::default();
        let ring = match slow {
            false => KeyRing::builder("acmepay", MemoryStore::new()),
            true => KeyRing::builder("acmepay", SlowStore::over(MemoryStore::new())),
        };
        let ring = ring
            .pepper(pepper())
            .clock(clock)
            .without_store_timeout()
            .imported_keys(ImportedKeys::by_sha256())
            .build()
            .unwrap();
        let hex: String = Sha256::digest(FOREIGN)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let foreign = ImportedKey::new(ImportedHash::sha256(&hex).unwrap());
        let manager = KeyManager::new(&ring);
        manager.import(NewKey::new("acme"), foreign).await.unwrap();
        let layer = ApiKeyLayer::builder(&ring).failure_limit(3, MINUTE);
        let layer = layer.build().unwrap();
        let ask = |key: &str, address| send(layer.clone(), at(with_key(key), address));
        for number in 0..3 {
            ask(&format!("sk_prod_guess_{number:08}"), NAT).await;
        }
        let limited = ask(FOREIGN, NAT).await;
        assert_eq!(denial(&limited), AuthDenial::TooManyFailures);
        // Once it was good from elsewhere, it is known.
        let elsewhere = ask(FOREIGN, "198.51.100.1").await;
        assert_eq!(elsewhere.status(), StatusCode::OK);
        assert_eq!(ask(FOREIGN, NAT).await.status(), StatusCode::OK);
    }
}

/// A store on a server: it is asked a poll later, and announces changes.
#[derive(Clone)]
struct Server {
    store: MemoryStore,
    changes: KeyChangeFeed,
    finds: Arc<AtomicUsize>,
}

impl Server {
    fn new() -> Self {
        let changes = KeyChangeFeed::new();
        changes.notify_connected();
        Self {
            store: MemoryStore::new(),
            changes,
            finds: Arc::default(),
        }
    }
}

impl ApiKeyStore for Server {
    fn find(&self, id: KeyId) -> StoreFuture<Option<StoredKey>> {
        self.finds.fetch_add(1, Ordering::SeqCst);
        let found = self.store.find(id);
        StoreFuture::pending(async move {
            tokio::task::yield_now().await;
            found.await
        })
    }

    fn create(&self, record: StoredKey) -> StoreFuture<()> {
        self.store.create(record)
    }

    fn update(&self, record: StoredKey, expected: u64) -> StoreFuture<()> {
        self.store.update(record, expected)
    }

    fn list(&self, query: KeyQuery) -> StoreFuture<KeyPage> {
        self.store.list(query)
    }

    fn record_uses(&self, uses: Vec<KeyUse>) -> StoreFuture<()> {
        self.store.record_uses(uses)
    }

    fn purge(&self, before: Timestamp, max: usize) -> StoreFuture<usize> {
        self.store.purge(before, max)
    }

    fn changes(&self) -> ChangeNotifications {
        ChangeNotifications::Feed(self.changes.clone())
    }
}

/// Makes keys of the right form that no store knows.
struct Junk {
    some: String,
    number: usize,
}

impl Junk {
    async fn new() -> Self {
        let some = unknown_key().await;
        Self { some, number: 0 }
    }

    fn next(&mut self) -> String {
        self.number += 1;
        let names = &self.some[..self.some.len() - 66];
        let number = self.number;
        let unchecked = format!("{names}1{number:015}_{number:043}000000");
        forged(&unchecked, &unchecked)
    }
}

async fn ask(layer: &ApiKeyLayer, key: &str) -> ApiKeyResponse {
    send(layer.clone(), at(with_key(key), NAT)).await
}

#[tokio::test]
async fn a_neighbor_does_not_lock_out_a_key_in_use() {
    let store = Server::new();
    let keys = Keys::kept_in(store.clone());
    let victim = keys.reader().await;
    let layer = keys.layer().build().unwrap();
    let mut junk = Junk::new().await;
    assert_eq!(
        ask(&layer, victim.expose_secret()).await.status(),
        StatusCode::OK
    );
    for _ in 0..60 {
        ask(&layer, &junk.next()).await;
    }
    for second in 0..90 {
        for _ in 0..2 {
            ask(&layer, &junk.next()).await;
        }
        let status = ask(&layer, victim.expose_secret()).await.status();
        assert_eq!(status, StatusCode::OK, "second {second}");
        keys.clock.advance(Duration::from_secs(1));
    }
    // Nor while changes are not announced, when each request asks the store.
    store.changes.notify_lost();
    for _ in 0..5 {
        ask(&layer, &junk.next()).await;
        let status = ask(&layer, victim.expose_secret()).await.status();
        assert_eq!(status, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_key_is_exempt_for_an_hour_after_its_last_use() {
    let keys = Keys::kept_in(Server::new());
    let layer = keys.layer().failure_limit(2, MINUTE).build().unwrap();
    let (victim, mut junk) = (keys.reader().await, Junk::new().await);
    let mut exhaust = async || {
        for _ in 0..3 {
            ask(&layer, &junk.next()).await;
        }
    };
    ask(&layer, victim.expose_secret()).await;
    for pause in [HOUR, HOUR - MINUTE, HOUR] {
        keys.clock.advance(pause);
        exhaust().await;
        let status = ask(&layer, victim.expose_secret()).await.status();
        assert_eq!(status, StatusCode::OK, "{pause:?}");
    }
    keys.clock.advance(2 * HOUR);
    exhaust().await;
    let late = ask(&layer, victim.expose_secret()).await;
    assert_eq!(denial(&late), AuthDenial::TooManyFailures);
}

/// Knowing the id of an exempt key, or having had one, buys no questions to the store.
#[tokio::test]
async fn the_exemption_of_a_good_key_cannot_be_exploited() {
    let store = Server::new();
    let keys = Keys::kept_in(store.clone());
    let layer = keys.layer().failure_limit(3, MINUTE).build().unwrap();
    let (victim, mut junk) = (keys.reader().await, Junk::new().await);
    ask(&layer, victim.expose_secret()).await;
    keys.clock.advance(Duration::from_secs(30));
    let finds = || store.finds.load(Ordering::SeqCst);
    let before = finds();
    for _ in 0..20 {
        let wrong = forged(victim.expose_secret(), &junk.next());
        assert_ne!(ask(&layer, &wrong).await.status(), StatusCode::OK);
    }
    // The first request cached the record; later ones do not query the store.
    assert!(finds() - before <= 3, "{}", finds() - before);
    assert_eq!(
        ask(&layer, victim.expose_secret()).await.status(),
        StatusCode::OK
    );

    // A key that is gone is a wrong key from the next request on.
    keys.manager.revoke(victim.id(), "").await.unwrap();
    keys.clock.advance(Duration::from_secs(1));
    keys.manager.purge(Duration::ZERO).await.unwrap();
    store.changes.notify_changed(victim.id());
    let before = finds();
    for _ in 0..20 {
        let gone = ask(&layer, victim.expose_secret()).await;
        assert_ne!(gone.status(), StatusCode::OK);
        keys.clock.advance(Duration::from_secs(1));
    }
    assert!(finds() - before <= 5, "{}", finds() - before);
}

/// The body of a rejection, and the schemes of its challenges.
async fn told(response: ApiKeyResponse) -> (String, Vec<String>) {
    let schemes = challenges(response.headers())
        .iter()
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect();
    let body: Value = serde_json::from_str(&text(response).await).unwrap();
    (body["title"].as_str().unwrap().to_owned(), schemes)
}

#[tokio::test]
async fn a_rejection_names_the_credential_that_was_presented() {
    let keys = Keys::new();
    let verifier = Tokens::new(false, rejected);
    let layer = keys
        .layer()
        .verifier(verifier)
        .sources([
            KeySource::bearer(),
            KeySource::x_api_key(),
            KeySource::cookie("session").unwrap(),
        ])
        .build()
        .unwrap();
    let unknown = unknown_key().await;
    let mistyped = &unknown[..unknown.len() - 1];
    let all = ["Bearer", "ApiKey"];
    for (request, title, schemes) in [
        (
            bearer("a.jwt.token"),
            "The bearer token is not valid",
            &all[..1],
        ),
        (bearer(&unknown), "The API key is not valid", &all[..]),
        (bearer(mistyped), "The API key is not valid", &all[..]),
        (
            with_key("a.jwt.token"),
            "The API key is not valid",
            &all[..],
        ),
        (
            with_header("cookie", "session=a.jwt.token"),
            "The credential is not valid",
            &all[..],
        ),
        (
            crate::support::get("/"),
            "A credential is required",
            &all[..],
        ),
    ] {
        let response = send(layer.clone(), request).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(
            header(response.headers(), "cache-control"),
            Some("no-store")
        );
        let (told, challenged) = told(response).await;
        assert_eq!(
            (&*told, challenged),
            (title, schemes.iter().map(ToString::to_string).collect())
        );
    }
    // Without verifiers, every credential is treated as an API key.
    let response = keys.send(bearer("a.jwt.token")).await;
    assert_eq!(told(response).await.0, "The API key is not valid");
}

#[tokio::test]
async fn each_rejection_of_a_bearer_token_names_it() {
    let keys = Keys::new();
    let told_by = async |others, limit: u32, requests: usize| {
        let verifier = Tokens::new(false, others);
        let layer = keys.layer().failure_limit(limit, MINUTE).verifier(verifier);
        let layer = layer.require_all_scopes(["a"]).build().unwrap();
        let mut last = None;
        for number in 0..requests {
            let token = format!("token-{number}");
            last = Some(send(layer.clone(), at(bearer(&token), NAT)).await);
        }
        let response = last.unwrap();
        let status = response.status().as_u16();
        (status, told(response).await.0)
    };
    let unavailable = (|| Err(StoreErrorKind::Timeout)) as fn() -> _;
    let broken = (|| panic!("as it was asked")) as fn() -> _;
    let known = (|| Ok(Verdict::Caller(Identity::builder("bob").build()))) as fn() -> _;
    for (others, limit, requests, status, title) in [
        (
            rejected as fn() -> _,
            1,
            2,
            429,
            "Too many bearer tokens from this client were not valid",
        ),
        (
            unavailable,
            9,
            1,
            503,
            "Bearer tokens cannot be checked at the moment",
        ),
        (broken, 9, 1, 500, "The bearer token could not be checked"),
        (known, 9, 1, 403, "The bearer token lacks a scope"),
    ] {
        let told = told_by(others, limit, requests).await;
        assert_eq!(told, (status, title.to_owned()));
    }
}
