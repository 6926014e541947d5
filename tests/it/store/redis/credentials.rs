//! Passwords that rotate: the credentials provider of a Redis store.

use std::{
    convert::Infallible,
    future::pending,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use portcullis::{
    StoreError, StoreErrorKind, TokioRuntime,
    access_log::{AccessLogLayer, LogQuery, LogStore, LogStream, sinks::LogQueue},
    rate_limit::{Policy, Quota, RateLimitStore},
    store::{RedisConfig, RedisCredentials, RedisStore, backend::Charge},
};
use tower::{Layer, ServiceExt, service_fn};

use super::keys::{Instance as KeyInstance, new_key};
use crate::support::{
    alone, get,
    redis::{Server, become_cluster, failed_ping, keys, patient, source},
    refusing::{Refusing, Treatment},
};

/// A secret manager: it counts how often it is asked.
#[derive(Clone, Default)]
struct Vault {
    current: Arc<Mutex<(String, String)>>,
    asked: Arc<AtomicUsize>,
}

impl Vault {
    fn with(username: &str, password: &str) -> Self {
        let vault = Self::default();
        vault.set(username, password);
        vault
    }

    fn set(&self, username: &str, password: &str) {
        *self.current.lock().unwrap() = (username.to_owned(), password.to_owned());
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    async fn credentials(self) -> io::Result<RedisCredentials> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        // As one that is asked over the network.
        tokio::task::yield_now().await;
        let (username, password) = self.current.lock().unwrap().clone();
        Ok(RedisCredentials::new(username, password))
    }

    fn of(&self, config: RedisConfig) -> RedisConfig {
        let vault = self.clone();
        patient(config).credentials_provider(move || vault.clone().credentials())
    }

    fn store(&self, config: RedisConfig) -> RedisStore {
        RedisStore::new(self.of(config), keys()).unwrap()
    }
}

fn add_user(server: &Server, username: &str, password: &str) {
    let password = format!(">{password}");
    let rights = ["~*", "&*", "+@all"];
    server.ask(&[&["ACL", "SETUSER", username, "on", &password], &rights[..]].concat());
}

/// A server with the user `acme`. The user `default` stays usable, for what a test asks itself.
fn server() -> Server {
    let server = Server::start();
    add_user(&server, "acme", "first");
    server
}

fn single(server: &Server) -> RedisConfig {
    RedisConfig::single(server.url())
}

async fn take(store: &RedisStore) -> Result<(), StoreError> {
    let policy = Policy::fixed_window("p", Quota::per_hour(1_000_000)).unwrap();
    let partition = keys().space("credentials").short_key(b"one");
    store.take(&partition, &[Charge::new(&policy, 1)]).await?;
    Ok(())
}

async fn until_up(store: &RedisStore) {
    let begun = Instant::now();
    while let Err(error) = store.ping().await {
        assert!(begun.elapsed() < Duration::from_secs(10), "{error:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Sends calls until it is stopped, and returns how many; each of them succeeds.
struct Traffic {
    is_over: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<usize>>,
}

impl Traffic {
    fn through(store: &RedisStore) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let tasks = (0..4).map(|_| {
            let (store, is_over) = (store.clone(), Arc::clone(&is_over));
            tokio::spawn(async move {
                let mut calls = 0;
                while !is_over.load(Ordering::Relaxed) {
                    take(&store).await.unwrap();
                    calls += 1;
                }
                calls
            })
        });
        let tasks = tasks.collect();
        Self { is_over, tasks }
    }

    async fn end(self) -> usize {
        self.is_over.store(true, Ordering::Relaxed);
        let mut calls = 0;
        for task in self.tasks {
            calls += task.await.unwrap();
        }
        calls
    }
}

/// Waits until no connection of a user is left.
async fn until_gone(server: &Server, username: &str) {
    let begun = Instant::now();
    let user = format!("user={username} ");
    while server.ask(&["CLIENT", "LIST"]).as_text().contains(&user) {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{username} stays"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_while_passwords_and_users_rotate() {
    let server = server();
    let vault = Vault::with("acme", "first");
    let store = vault.store(single(&server));
    store.ping().await.unwrap();
    let traffic = Traffic::through(&store);
    let mut old = ("acme".to_owned(), "first".to_owned());
    for round in 0..6 {
        // A new password of the same user, and then another user.
        let username = match round % 2 {
            0 => old.0.clone(),
            _ => format!("acme-{round}"),
        };
        let new = (username, format!("password-{round}"));
        add_user(&server, &new.0, &new.1);
        vault.set(&new.0, &new.1);
        store.reauthenticate().await.unwrap();
        if old.0 == new.0 {
            server.ask(&["ACL", "SETUSER", &old.0, &format!("<{}", old.1)]);
        } else {
            // The server ends all connections of a user that is deleted.
            until_gone(&server, &old.0).await;
            server.ask(&["ACL", "DELUSER", &old.0]);
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
        old = new;
    }
    assert!(traffic.end().await > 100);
    // None of it reconnected.
    assert_eq!(store.stats().connects, 1, "{:?}", store.stats());
}

#[tokio::test]
async fn connection_that_is_killed_is_opened_with_the_new_password() {
    let server = server();
    let vault = Vault::with("acme", "first");
    let store = vault.store(single(&server));
    store.ping().await.unwrap();
    assert_eq!(vault.asked(), 1);
    server.ask(&["ACL", "SETUSER", "acme", ">second", "<first"]);
    vault.set("acme", "second");
    // An authenticated connection stays so.
    take(&store).await.unwrap();
    assert_eq!(vault.asked(), 1);
    server.ask(&["CLIENT", "KILL", "TYPE", "normal"]);
    until_up(&store).await;
    assert_eq!(vault.asked(), 2);
}

#[tokio::test]
async fn refused_password_asks_the_provider_once_more() {
    for options in [&[][..], &["--rename-command", "HELLO", ""]] {
        let server = Server::with(options);
        add_user(&server, "acme", "second");
        let vault = Vault::with("acme", "first");
        let asked = vault.clone();
        let config = patient(single(&server)).credentials_provider(move || {
            let vault = asked.clone();
            async move {
                let credentials = vault.clone().credentials().await;
                // It rotates just after it was asked.
                vault.set("acme", "second");
                credentials
            }
        });
        let store = RedisStore::new(config, keys()).unwrap();
        store.ping().await.unwrap();
        assert_eq!((vault.asked(), store.stats().connects), (2, 1));
    }
}

#[tokio::test]
async fn password_that_stays_wrong_is_misconfigured_and_asked_for_twice_per_attempt() {
    let server = server();
    let vault = Vault::with("acme", "hunter2");
    let store = vault.store(single(&server));
    for _ in 0..3 {
        let error = failed_ping(&store).await;
        assert_eq!(error.kind(), StoreErrorKind::Misconfigured);
        assert!(source(&error).contains("WRONGPASS "), "{error:?}");
        assert!(!format!("{error:?} {store:?}").contains("hunter2"));
    }
    let connects = usize::try_from(store.stats().connects).unwrap();
    assert!((2 * connects - 1..=2 * connects).contains(&vault.asked()));
    vault.set("acme", "first");
    until_up(&store).await;
}

#[tokio::test]
async fn provider_that_fails_hangs_or_panics_is_unavailable_until_it_recovers() {
    #[derive(Clone, Copy, Debug)]
    enum SyncMode {
        Fail,
        Hang,
        Panic,
        Work,
    }
    let server = server();
    for (mode, reason) in [
        (
            SyncMode::Fail,
            "the credentials provider failed: the vault is sealed",
        ),
        (
            SyncMode::Hang,
            "the credentials provider timed out after 50ms",
        ),
        (
            SyncMode::Panic,
            "the credentials provider failed: it panicked",
        ),
    ] {
        let current = Arc::new(Mutex::new(mode));
        let asked = Arc::clone(&current);
        let config = patient(single(&server))
            .credentials_timeout(Duration::from_millis(50))
            .credentials_provider(move || {
                let mode = *asked.lock().unwrap();
                async move {
                    match mode {
                        SyncMode::Fail => Err(io::Error::other("the vault is sealed")),
                        SyncMode::Hang => pending().await,
                        SyncMode::Panic => panic!("the provider of the test"),
                        SyncMode::Work => Ok(RedisCredentials::new("acme", "first")),
                    }
                }
            });
        let store = RedisStore::new(config, keys()).unwrap();
        let error = failed_ping(&store).await;
        assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error:?}");
        assert!(source(&error).contains(reason), "{error:?}");
        let call = take(&store).await.unwrap_err();
        assert_eq!(call.kind(), StoreErrorKind::Unavailable);
        *current.lock().unwrap() = SyncMode::Work;
        until_up(&store).await;
        // Open connections go on with what they have.
        *current.lock().unwrap() = mode;
        let error = store.reauthenticate().await.unwrap_err();
        assert!(source(&error).contains(reason), "{error:?}");
        take(&store).await.unwrap();
    }
}

#[tokio::test]
async fn request_waits_for_a_slow_provider_no_longer_than_for_a_connection() {
    let server = server();
    let config = RedisConfig::single(server.url())
        .api_key_timeout(Duration::from_secs(5))
        .idle_timeout(Duration::from_secs(5))
        .connect_timeout(Duration::from_millis(100))
        .credentials_provider(async || {
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            Ok::<_, io::Error>(RedisCredentials::new("acme", "first"))
        });
    let store = RedisStore::new(config, keys()).unwrap();
    let begun = Instant::now();
    store.ping().await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(1));
    // It takes longer than an attempt to connect may, and is not given up.
    until_up(&store).await;
}

#[tokio::test]
async fn new_credentials_that_are_refused_leave_connections_as_they_are() {
    let server = server();
    let vault = Vault::with("acme", "first");
    let store = vault.store(single(&server));
    store.ping().await.unwrap();
    vault.set("acme", "hunter2");
    let error = store.reauthenticate().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Misconfigured);
    assert!(source(&error).contains("WRONGPASS "), "{error:?}");
    assert_eq!(vault.asked(), 3);
    take(&store).await.unwrap();
    assert_eq!(store.stats().connects, 1);

    let fixed = RedisStore::new(patient(single(&server)), keys()).unwrap();
    let error = fixed.reauthenticate().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Misconfigured);
    assert!(source(&error).contains("no credentials provider"));
}

#[tokio::test]
async fn connection_that_is_being_opened_during_a_rotation_uses_the_new_credentials() {
    let server = server();
    let vault = Vault::with("acme", "first");
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let (asked, passage) = (vault.clone(), Arc::clone(&gate));
    let config = patient(single(&server)).credentials_provider(move || {
        let (vault, passage) = (asked.clone(), Arc::clone(&passage));
        async move {
            let credentials = vault.clone().credentials().await;
            if vault.asked() == 1 {
                passage.acquire().await.unwrap().forget();
            }
            credentials
        }
    });
    let store = RedisStore::new(config, keys()).unwrap();
    let pinged = store.clone();
    let ping = tokio::spawn(async move { pinged.ping().await });
    let begun = Instant::now();
    while vault.asked() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(10));
        tokio::task::yield_now().await;
    }
    add_user(&server, "acme-2", "second");
    vault.set("acme-2", "second");
    store.reauthenticate().await.unwrap();
    gate.add_permits(1);
    ping.await.unwrap().unwrap();
    assert_eq!((vault.asked(), store.stats().connects), (3, 1));
    until_gone(&server, "acme").await;
    server.ask(&["ACL", "DELUSER", "acme"]);
    take(&store).await.unwrap();
}

#[tokio::test]
async fn server_that_demands_authentication_again_gets_the_call_once_more() {
    let server = server();
    let proxy = Refusing::before(server.addr(), &[]).await;
    let vault = Vault::with("acme", "first");
    let store = vault.store(RedisConfig::single(proxy.url()));
    take(&store).await.unwrap();
    // A connection is opened once each second at most.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    vault.set("acme", "first");
    let expired = Treatment::ReplyOnce("-NOAUTH Authentication required.");
    proxy.set(&[("EVALSHA", expired)]);
    take(&store).await.unwrap();
    assert_eq!((vault.asked(), store.stats().connects), (2, 2));
    let charged = server.calls_of("evalsha");
    assert_eq!(charged, 2, "charged once each");
}

#[tokio::test]
async fn key_changes_are_received_after_a_rotation() {
    let server = server();
    let vault = Vault::with("acme", "first");
    let store = vault.store(single(&server));
    let instance = KeyInstance::over(store.clone());
    let manager = KeyInstance::at(&server.url());
    let (id, key) = new_key(&manager, "freya").await;
    instance.warm(&key, &server).await;
    add_user(&server, "acme-2", "second");
    vault.set("acme-2", "second");
    store.reauthenticate().await.unwrap();
    until_gone(&server, "acme").await;
    server.ask(&["ACL", "DELUSER", "acme"]);
    instance.warm(&key, &server).await;
    manager.manager().revoke(id, "a test").await.unwrap();
    let took = instance.until(&key, StatusCode::UNAUTHORIZED).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn log_records_wait_while_the_password_is_refused() {
    let server = server();
    let vault = Vault::with("acme", "hunter2");
    let store = vault.store(single(&server));
    let queue = LogQueue::builder(store.clone(), TokioRuntime)
        .build()
        .unwrap();
    let layer = AccessLogLayer::new(queue.clone());
    let inner = service_fn(async |_: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    layer.layer(inner).oneshot(get("/1")).await.unwrap();
    assert!(!queue.flush().await);
    let drop_counts = queue.drop_counts(LogStream::Access);
    assert_eq!((drop_counts.store_failed, queue.pending()), (0, 1));
    vault.set("acme", "first");
    until_up(&store).await;
    assert!(queue.flush().await);
    let stored = store.recent(LogStream::Access, &LogQuery::latest(2)).await;
    assert_eq!(stored.unwrap().len(), 1);
}

#[tokio::test]
async fn sentinels_and_the_main_server_have_providers_of_their_own() {
    let main = server();
    let sentinel = Server::sentinel(&["--requirepass", "of-the-sentinel"]);
    let mut client = sentinel.client();
    client.ask(&[b"AUTH", b"of-the-sentinel"]);
    let port = main.addr().port().to_string();
    let words = [
        &b"SENTINEL"[..],
        b"MONITOR",
        b"main",
        b"127.0.0.1",
        port.as_bytes(),
        b"1",
    ];
    client.ask(&words);
    let vault = Vault::with("acme", "first");
    let sentinel_vault = Vault::with("default", "wrong");
    let asked = sentinel_vault.clone();
    let config = || RedisConfig::sentinel([sentinel.url()], "main");
    let config = vault
        .of(config())
        .sentinel_credentials_provider(move || asked.clone().credentials());
    let store = RedisStore::new(config, keys()).unwrap();
    let error = failed_ping(&store).await;
    assert!(source(&error).contains("WRONGPASS "), "{error:?}");
    assert_eq!((vault.asked(), sentinel_vault.asked() % 2), (0, 0));
    sentinel_vault.set("default", "of-the-sentinel");
    until_up(&store).await;
    main.ask(&["ACL", "SETUSER", "acme", ">second"]);
    vault.set("acme", "second");
    let before = main.calls_of("auth");
    store.reauthenticate().await.unwrap();
    assert_eq!(main.calls_of("auth"), before + 1);
    main.ask(&["ACL", "SETUSER", "acme", "<first"]);
    main.ask(&["CLIENT", "KILL", "TYPE", "normal"]);
    until_up(&store).await;
}

#[tokio::test]
async fn nodes_of_a_cluster_are_reauthenticated() {
    let options = [
        "--cluster-enabled",
        "yes",
        "--cluster-config-file",
        "nodes.conf",
    ];
    let server = Server::with(&options);
    add_user(&server, "acme", "first");
    become_cluster(&server).await;
    let vault = Vault::with("acme", "first");
    let store = vault.store(RedisConfig::cluster([server.url()]));
    take(&store).await.unwrap();
    add_user(&server, "acme-2", "second");
    vault.set("acme-2", "second");
    store.reauthenticate().await.unwrap();
    until_gone(&server, "acme").await;
    server.ask(&["ACL", "DELUSER", "acme"]);
    take(&store).await.unwrap();
    assert_eq!(store.stats().connects, 1);
}

#[test]
fn rejects_options_that_contradict_a_provider() {
    let provider = async || Ok::<_, io::Error>(RedisCredentials::password("hunter2"));
    let single = || RedisConfig::single("redis://h").credentials_provider(provider);
    let sentinel = RedisConfig::single("redis://h").sentinel_credentials_provider(provider);
    for (config, option) in [
        (single().password("hunter2"), "credentials_provider"),
        (single().username("acme"), "credentials_provider"),
        (
            single().credentials_timeout(Duration::ZERO),
            "credentials_timeout",
        ),
        (
            single().credentials_timeout(Duration::MAX),
            "credentials_timeout",
        ),
        (sentinel, "sentinel_credentials_provider"),
    ] {
        let error = RedisStore::new(config.clone(), keys())
            .map(drop)
            .unwrap_err();
        assert_eq!(error.option(), option);
        assert!(!format!("{config:?} {error:?} {error}").contains("hunter2"));
    }
    let credentials = RedisCredentials::new("acme", "hunter2");
    assert_eq!(format!("{credentials:?}"), "RedisCredentials");
    assert!(RedisStore::new(single(), keys()).is_ok());
}

#[test]
fn notices_name_the_cause_and_no_password() {
    if alone::is_child() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        return runtime.block_on(async {
            let server = server();
            let vault = Vault::with("acme", "hunter2");
            let store = vault.store(single(&server));
            failed_ping(&store).await;
            vault.set("acme", "first");
            until_up(&store).await;
            vault.set("acme", "hunter3");
            store.reauthenticate().await.unwrap_err();
        });
    }
    let output = alone::run("store::redis::credentials::notices_name_the_cause_and_no_password");
    let [down, up, kept] = alone::notices(&output)[..] else {
        panic!("{output:?}");
    };
    assert!(down.contains(": WRONGPASS "), "{down}");
    assert!(up.contains("replies again"), "{up}");
    assert!(
        kept.contains("keep their previous credentials: WRONGPASS "),
        "{kept}"
    );
    assert!(!format!("{output:?}").contains("hunter"), "{output:?}");
}
