//! Limits before a Redis server that is slow, and in a process that is late itself.

use std::{
    convert::Infallible,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use http::{HeaderName, Request, Response, StatusCode};
use portcullis::{
    rate_limit::{OnStoreError, Partition, Policy, Quota, RateLimitLayer},
    store::{RedisConfig, RedisStore},
};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{
    calm::on_a_calm_machine,
    redis::{Fault, Proxy, Server, keys},
};

/// The threads of the runtime of each test.
const WORKERS: usize = 2;

/// A limiter by the defaults.
#[derive(Clone)]
struct Scene {
    store: RedisStore,
    layer: RateLimitLayer,
}

impl Scene {
    fn new(url: String) -> Self {
        let store = RedisStore::new(RedisConfig::single(url), keys()).unwrap();
        let by = Partition::header(HeaderName::from_static("x-nobody-sends-this"));
        let layer = RateLimitLayer::builder(store.clone(), by)
            .policy(Policy::fixed_window("all", Quota::per_hour(1_000_000)).unwrap())
            .on_store_error(OnStoreError::Deny)
            .build()
            .unwrap();
        Self { store, layer }
    }

    async fn send(&self) -> StatusCode {
        let inner = service_fn(async |_| Ok::<_, Infallible>(Response::new(())));
        let sent = self.layer.layer(inner).oneshot(Request::new(()));
        sent.await.unwrap().status()
    }

    /// Sends requests until ten in a row are decided.
    async fn until_up(&self) {
        let (begun, mut decided) = (Instant::now(), 0);
        while decided < 10 {
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "{:?}",
                self.store
            );
            decided = match self.send().await {
                StatusCode::OK => decided + 1,
                _ => 0,
            };
            tokio::task::yield_now().await;
        }
    }

    /// Sends requests from several tasks for some time, and returns how many failed.
    async fn load(&self, tasks: usize, time: Duration) -> usize {
        let over = Arc::new(AtomicBool::new(false));
        let tasks: Vec<_> = (0..tasks)
            .map(|_| {
                let (scene, over) = (self.clone(), Arc::clone(&over));
                tokio::spawn(async move {
                    let mut failed = 0;
                    while !over.load(SeqCst) {
                        failed += usize::from(scene.send().await != StatusCode::OK);
                        // A store that is unavailable fails calls at once.
                        tokio::task::yield_now().await;
                    }
                    failed
                })
            })
            .collect();
        tokio::time::sleep(time).await;
        over.store(true, SeqCst);
        let mut failed = 0;
        for task in tasks {
            failed += task.await.unwrap();
        }
        failed
    }
}

/// Holds all threads of the runtime for this long.
fn starve(time: Duration) {
    let all = Arc::new(Barrier::new(WORKERS));
    for _ in 0..WORKERS {
        let all = Arc::clone(&all);
        tokio::spawn(async move {
            all.wait();
            thread::sleep(time);
        });
    }
}

#[test]
fn reply_that_waits_in_the_socket_of_a_late_process_is_read() {
    on_a_calm_machine(async || {
        let server = Server::start();
        let proxy = Proxy::new(server.addr());
        let scene = Scene::new(proxy.url());
        scene.until_up().await;
        // The replies arrive while no thread of the runtime runs.
        proxy.set(Fault::Delay(Duration::from_millis(5)));
        for late in [30, 60, 120, 240, 60, 30] {
            let sent: Vec<_> = (0..8)
                .map(|_| {
                    let scene = scene.clone();
                    tokio::spawn(async move { scene.send().await })
                })
                .collect();
            tokio::time::sleep(Duration::from_millis(1)).await;
            starve(Duration::from_millis(late));
            for reply in sent {
                assert_eq!(reply.await.unwrap(), StatusCode::OK, "{late}");
            }
        }
        assert_eq!(scene.store.stats().downs, 0);
        assert_eq!(scene.store.stats().timeouts, 0);
    });
}

#[test]
fn reply_that_waits_in_the_socket_of_a_late_thread_is_read() {
    on_a_calm_machine(async || {
        let server = Server::start();
        let scene = Scene::new(server.url());
        scene.until_up().await;
        for late in [30, 60, 120, 240] {
            let (status, ()) = tokio::join!(scene.send(), async {
                // The request is sent once the task of the connection has run.
                for _ in 0..3 {
                    tokio::task::yield_now().await;
                }
                thread::sleep(Duration::from_millis(late));
            });
            assert_eq!(status, StatusCode::OK, "{late}");
        }
        assert_eq!(scene.store.stats().downs, 0);
        assert_eq!(scene.store.stats().timeouts, 0);
    });
}

#[test]
fn process_that_connects_late_reports_no_outage() {
    on_a_calm_machine(async || {
        let server = Server::start();
        for late in [300, 600] {
            let scene = Scene::new(server.url());
            let first = scene.clone();
            let first = tokio::spawn(async move { first.send().await });
            starve(Duration::from_millis(late));
            first.await.unwrap();
            scene.until_up().await;
            assert_eq!(scene.store.stats().downs, 0, "{late}");
        }
    });
}

#[test]
fn server_that_takes_20_ms_for_each_command_fails_no_request() {
    on_a_calm_machine(async || {
        let server = Server::start();
        let proxy = Proxy::new(server.addr());
        let scene = Scene::new(proxy.url());
        scene.until_up().await;
        proxy.set(Fault::Delay(Duration::from_millis(10)));
        for tasks in [1, 8, 64] {
            scene.load(tasks, Duration::from_millis(100)).await;
            assert_eq!(
                scene.load(tasks, Duration::from_millis(500)).await,
                0,
                "{tasks}"
            );
        }
        assert_eq!(scene.store.stats().downs, 0);
    });
}

#[test]
fn server_that_becomes_40_ms_slower_costs_no_outage() {
    on_a_calm_machine(async || {
        let server = Server::start();
        let proxy = Proxy::new(server.addr());
        let scene = Scene::new(proxy.url());
        scene.until_up().await;
        proxy.set(Fault::Delay(Duration::from_millis(20)));
        // The result is ignored: requests in flight predate the change.
        scene.load(8, Duration::from_millis(300)).await;
        for tasks in [8, 64] {
            assert_eq!(
                scene.load(tasks, Duration::from_millis(500)).await,
                0,
                "{tasks}"
            );
        }
        assert_eq!(scene.store.stats().downs, 0);
    });
}

#[test]
fn server_that_is_held_up_for_20_ms_by_others_fails_no_request() {
    on_a_calm_machine(async || {
        let server = Server::start();
        let scene = Scene::new(server.url());
        scene.until_up().await;
        let over = Arc::new(AtomicBool::new(false));
        let others = {
            let (over, mut client) = (Arc::clone(&over), server.client());
            thread::spawn(move || {
                while !over.load(SeqCst) {
                    client.ask(&[b"DEBUG", b"SLEEP", b"0.02"]).unwrap();
                }
            })
        };
        // The result is ignored: requests in flight predate the change.
        scene.load(8, Duration::from_millis(300)).await;
        // A busy machine may hold the server up for far longer: such a round is made again.
        let mut failed = 0;
        for _ in 0..5 {
            failed = scene.load(8, Duration::from_millis(500)).await;
            if failed == 0 {
                break;
            }
        }
        over.store(true, SeqCst);
        others.join().unwrap();
        assert_eq!((failed, scene.store.stats().downs), (0, 0));
    });
}

#[test]
fn silent_server_is_given_up_in_the_documented_time() {
    on_a_calm_machine(async || {
        let server = Server::start();
        let scene = Scene::new(server.url());
        scene.until_up().await;
        server.freeze();
        let begun = Instant::now();
        let mut longest = Duration::ZERO;
        while scene.store.stats().down == 0 {
            let sent = Instant::now();
            assert_eq!(scene.send().await, StatusCode::SERVICE_UNAVAILABLE);
            longest = longest.max(sent.elapsed());
            assert!(
                begun.elapsed() < Duration::from_secs(5),
                "{:?}",
                scene.store
            );
        }
        // 25 ms for each call and 50 ms in all, on a machine that does other things too.
        assert!(longest < Duration::from_millis(25 + 100), "{longest:?}");
        assert!(
            begun.elapsed() < Duration::from_millis(50 + 25 + 200),
            "{:?}",
            begun.elapsed()
        );
        server.thaw();
        scene.until_up().await;
        assert_eq!(scene.store.stats().downs, 1);
    });
}
