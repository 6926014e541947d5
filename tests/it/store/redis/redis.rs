//! The store on Redis: its connection, and the outcome of calls while the server is unavailable.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use portcullis::{
    AuditEvent, Auditor, StoreErrorKind,
    store::{RedisConfig, RedisStore},
};

use crate::support::redis::{Fault, Proxy, Server, keys, patient};

fn store(url: &str) -> RedisStore {
    RedisStore::new(patient(RedisConfig::single(url)), keys()).unwrap()
}

/// Gives a server all the time to come, and little to answer.
fn short(url: &str) -> RedisConfig {
    let little = Duration::from_millis(250);
    patient(RedisConfig::single(url))
        .api_key_timeout(little)
        .idle_timeout(little)
}

/// Stores the events it receives.
#[derive(Clone, Debug, Default)]
struct Heard(Arc<Mutex<Vec<AuditEvent>>>);

impl Auditor for Heard {
    fn audit(&self, event: &AuditEvent) {
        self.0.lock().unwrap().push(event.clone());
    }
}

impl Heard {
    fn names(&self) -> Vec<&'static str> {
        self.0
            .lock()
            .unwrap()
            .iter()
            .map(AuditEvent::name)
            .collect()
    }
}

/// Sends calls until the store replies, and returns the elapsed time.
async fn until_up(store: &RedisStore) -> Duration {
    let begun = Instant::now();
    while store.ping().await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{store:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    begun.elapsed()
}

async fn until_down(store: &RedisStore) {
    let begun = Instant::now();
    while store.stats().down == 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "{store:?}");
        let _ = store.ping().await;
    }
}

#[tokio::test]
async fn a_store_connects_at_its_first_call_by_network_and_by_socket() {
    let server = Server::start();
    let by_network = store(&server.url());
    assert_eq!(by_network.stats().connects, 0);
    by_network.ping().await.unwrap();
    by_network.clone().ping().await.unwrap();
    assert_eq!(by_network.stats().connects, 1);

    let by_socket = store(&format!("redis+unix://{}", server.socket().display()));
    by_socket.ping().await.unwrap();
}

#[tokio::test]
async fn service_starts_without_its_server_and_recovers() {
    let server = Server::start();
    server.kill();
    let store = store(&server.url());
    let error = store.ping().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    server.restart();
    let healed_in = until_up(&store).await;
    assert!(healed_in < Duration::from_secs(10), "{healed_in:?}");
}

#[tokio::test]
async fn wrong_password_is_reported_without_disclosing_it() {
    let server = Server::with(&["--requirepass", "the-right-one"]);
    let heard = Heard::default();
    let config = patient(RedisConfig::single(server.url()))
        .password("hunter2-is-wrong")
        .auditor(heard.clone());
    let store = RedisStore::new(config, keys()).unwrap();
    let error = store.ping().await.unwrap_err();
    assert!(!format!("{store:?} {error:?} {error}").contains("hunter2"));
    let [AuditEvent::StoreDown { kind, .. }] = heard.0.lock().unwrap()[..] else {
        panic!("{heard:?}");
    };
    assert_eq!(kind, StoreErrorKind::Misconfigured);

    let right = patient(RedisConfig::single(server.url())).password("the-right-one");
    RedisStore::new(right, keys())
        .unwrap()
        .ping()
        .await
        .unwrap();
}

#[tokio::test]
async fn a_frozen_server_costs_its_deadline_and_then_nothing_until_it_thaws() {
    let server = Server::start();
    let heard = Heard::default();
    let config = short(&server.url()).auditor(heard.clone());
    let store = RedisStore::new(config, keys()).unwrap();
    store.ping().await.unwrap();
    server.freeze();
    let begun = Instant::now();
    let kind = store.ping().await.unwrap_err().kind();
    assert_eq!(kind, StoreErrorKind::Timeout);
    assert!(begun.elapsed() < Duration::from_secs(1));
    until_down(&store).await;
    let begun = Instant::now();
    for _ in 0..100 {
        let kind = store.ping().await.unwrap_err().kind();
        assert_eq!(kind, StoreErrorKind::Unavailable);
    }
    assert!(begun.elapsed() < 100 * Duration::from_millis(10));
    server.thaw();
    let healed_in = until_up(&store).await;
    assert!(healed_in < Duration::from_secs(10), "{healed_in:?}");
    assert_eq!(
        heard.names(),
        ["portcullis.audit.store_down", "portcullis.audit.store_up"]
    );
    assert_eq!((store.stats().downs, store.stats().down), (1, 0));
}

#[tokio::test]
async fn calls_that_wait_are_woken_when_the_server_is_given_up() {
    let server = Server::start();
    let slow = Duration::from_secs(20);
    let config = short(&server.url()).api_key_timeout(slow);
    let store = RedisStore::new(config, keys()).unwrap();
    store.ping().await.unwrap();
    let begun = Instant::now();
    server.freeze();
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.ping().await.unwrap_err().kind() })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(20)).await;
    server.kill();
    for call in waiting {
        assert_eq!(call.await.unwrap(), StoreErrorKind::Timeout);
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn lost_connection_is_reestablished_before_the_next_call() {
    let server = Server::start();
    let store = store(&server.url());
    store.ping().await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_050)).await;
    server.ask(&["CLIENT", "KILL", "TYPE", "normal"]);
    while store.stats().connects < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    store.ping().await.unwrap();
    assert_eq!(store.stats().downs, 0);
}

#[tokio::test]
async fn a_server_that_is_gone_is_tried_once_each_second() {
    let server = Server::start();
    let store = store(&server.url());
    store.ping().await.unwrap();
    server.kill();
    until_down(&store).await;
    let (begun, before) = (Instant::now(), store.stats().connects);
    while begun.elapsed() < Duration::from_millis(2_500) {
        assert!(store.ping().await.is_err());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let tried = store.stats().connects - before;
    assert!((1..=3).contains(&tried), "{tried}");
    assert!(store.stats().refused > 100);
}

#[tokio::test]
async fn a_replica_is_no_server_to_write_to() {
    let main = Server::start();
    let port = main.addr().port().to_string();
    let replica = Server::with(&["--replicaof", "127.0.0.1", &port]);
    let store = store(&replica.url());
    assert!(store.ping().await.is_err());
    until_down(&store).await;
    replica.ask(&["REPLICAOF", "NO", "ONE"]);
    assert!(until_up(&store).await < Duration::from_secs(10));
}

#[tokio::test]
async fn more_calls_than_may_wait_fail_at_once() {
    let server = Server::start();
    let config = short(&server.url()).max_pending_calls(2);
    let store = RedisStore::new(config, keys()).unwrap();
    store.ping().await.unwrap();
    server.freeze();
    let (one, two, three) = tokio::join!(store.ping(), store.ping(), store.ping());
    assert_eq!(one.unwrap_err().kind(), StoreErrorKind::Timeout);
    assert_eq!(two.unwrap_err().kind(), StoreErrorKind::Timeout);
    assert_eq!(three.unwrap_err().kind(), StoreErrorKind::Unavailable);
    assert_eq!(store.stats().refused, 1);
}

#[tokio::test]
async fn a_closed_store_answers_what_was_asked_and_nothing_more() {
    let server = Server::start();
    let proxy = Proxy::new(server.addr());
    let store = store(&proxy.url());
    store.ping().await.unwrap();
    proxy.set(Fault::Delay(Duration::from_millis(10)));
    let asked = store.clone();
    let asked = tokio::spawn(async move { asked.ping().await });
    tokio::time::sleep(Duration::from_millis(5)).await;
    store.close().await;
    asked.await.unwrap().unwrap();
    let late = store.ping().await.unwrap_err();
    assert_eq!(late.kind(), StoreErrorKind::Unavailable);
}
