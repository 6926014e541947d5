//! Behavior of keys, cache, and log while their Redis server fails, for each kind of failure.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use portcullis::{
    TokioRuntime,
    access_log::{AccessLogLayer, LogStream, sinks::LogQueue},
    api_key::{ApiKeyLayer, KeyManager, KeyRing, NewKey, Pepper},
    cache::CacheLayer,
    store::{RedisConfig, RedisStore},
};
use tower::ServiceExt;

use crate::support::{
    app::{App, app},
    calm::on_a_calm_machine,
    get,
    redis::{Fault, Proxy, Server, keys},
};

/// The timeout of each layer's calls to its server.
const DEADLINE: Duration = Duration::from_millis(25);

/// By how much a request may be late on a machine that does other things too.
const LATE: Duration = Duration::from_secs(1);

/// A server behind a proxy, and a layer of each kind before it.
struct Scene {
    /// The timeout of each layer.
    timeout: Duration,
    server: Server,
    proxy: Proxy,
    queue: LogQueue,
    /// The number of requests that went through the log.
    logged: AtomicUsize,
    /// The number of calls to the handler behind the cache.
    calls: Arc<AtomicUsize>,
    apps: [(&'static str, App); 3],
    key: String,
}

/// The status and the duration of each request of one layer.
type Seen = Vec<(StatusCode, Duration)>;

const AUTH: usize = 0;
const CACHE: usize = 1;
const LOG: usize = 2;

impl Scene {
    async fn new() -> Self {
        Self::waiting(DEADLINE).await
    }

    /// Sets a scene where the server answers all the time, if late on a busy machine.
    async fn patient() -> Self {
        Self::waiting(Duration::from_secs(2)).await
    }

    async fn waiting(timeout: Duration) -> Self {
        let server = Server::start();
        let proxy = Proxy::new(server.addr());
        let config = RedisConfig::single(proxy.url())
            .api_key_timeout(timeout)
            .cache_timeout(timeout);
        let store = RedisStore::new(config, keys()).unwrap();
        // Nothing is remembered: each request asks.
        let ring = KeyRing::builder("acmepay", store.clone())
            .pepper(Pepper::random(1))
            .key_cache_ttl(Duration::ZERO)
            .build()
            .unwrap();
        let key = KeyManager::new(&ring).create(NewKey::new("a")).await;
        let queue = LogQueue::builder(store.clone(), TokioRuntime)
            .flush_interval(Duration::from_millis(20))
            .build()
            .unwrap();
        let (calls, others) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let apps = [
            (
                "auth",
                app(ApiKeyLayer::builder(&ring).build().unwrap(), &others),
            ),
            ("cache", app(CacheLayer::new(store), &calls)),
            ("log", app(AccessLogLayer::new(queue.clone()), &others)),
        ];
        let scene = Self {
            timeout,
            server,
            proxy,
            queue,
            logged: AtomicUsize::new(0),
            calls,
            apps,
            key: key.unwrap().expose_secret().to_owned(),
        };
        scene.until_up(Duration::from_secs(10)).await;
        // Another attempt to connect may follow at once.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        scene
    }

    /// Returns a request for a layer. Each one calls the store, except for cached lookups.
    fn request(&self, which: usize, path: usize) -> Request<Full<Bytes>> {
        let mut request = get(&format!("http://acme.test/{}", path % 7));
        if which == AUTH {
            let key = self.key.parse().unwrap();
            request.headers_mut().insert("x-api-key", key);
        }
        request
    }

    async fn ask(&self, which: usize) -> StatusCode {
        let app = self.apps[which].1.clone();
        app.oneshot(self.request(which, 0)).await.unwrap().status()
    }

    /// Asks until keys are known again.
    async fn until_up(&self, patience: Duration) {
        let begun = Instant::now();
        while self.ask(AUTH).await != StatusCode::OK {
            assert!(begun.elapsed() < patience, "{:?}", begun.elapsed());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Sends requests to all layers until the time is over.
    async fn load(&self, time: Duration) -> Vec<Seen> {
        let over = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for (which, (_, app)) in self.apps.iter().enumerate() {
            for _ in 0..3 {
                let (app, over) = (app.clone(), Arc::clone(&over));
                let requests: Vec<_> = (0..7).map(|path| self.request(which, path)).collect();
                let task = async move {
                    let mut seen = Seen::new();
                    while !over.load(Ordering::Relaxed) {
                        let request = requests[seen.len() % requests.len()].clone();
                        let begun = Instant::now();
                        let response = app.clone().oneshot(request).await.unwrap();
                        seen.push((response.status(), begun.elapsed()));
                        tokio::time::sleep(Duration::from_millis(3)).await;
                    }
                    seen
                };
                tasks.push((which, tokio::spawn(task)));
            }
        }
        tokio::time::sleep(time).await;
        over.store(true, Ordering::Relaxed);
        let mut all: Vec<Seen> = self.apps.iter().map(|_| Seen::new()).collect();
        for (which, task) in tasks {
            all[which].extend(task.await.unwrap());
        }
        self.logged.fetch_add(all[LOG].len(), Ordering::Relaxed);
        all
    }

    /// Checks what holds whatever happened: keys and cache serve, all records are accounted for,
    /// and no key but those of the records of keys stays for ever.
    async fn is_sound(&self, is_data_kept: bool) {
        let begun = Instant::now();
        while !self.queue.flush().await {
            assert!(begun.elapsed() < Duration::from_secs(5), "the log is dead");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let stored = self.server.ask(&["XLEN", "portcullis:log:access"]).as_int();
        let (stored, lost) = (
            stored as usize,
            self.queue.drop_counts(LogStream::Access).total() as usize,
        );
        let logged = self.logged.load(Ordering::Relaxed);
        if is_data_kept {
            assert!(stored + lost >= logged, "{stored} + {lost} of {logged}");
        }
        let forever = self.server.keys_without_expiry();
        assert!(
            forever.iter().all(|key| key.contains(":k:{")),
            "{forever:?}"
        );
        let before = self.calls.load(Ordering::Relaxed);
        while self.calls.load(Ordering::Relaxed) < before + 2 {
            // A miss, and then hits for as long as it is fresh.
            if self.ask(CACHE).await == StatusCode::OK && self.is_hit().await {
                break;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(5),
                "nothing is cached"
            );
        }
    }

    async fn is_hit(&self) -> bool {
        let before = self.calls.load(Ordering::Relaxed);
        assert_eq!(self.ask(CACHE).await, StatusCode::OK);
        self.calls.load(Ordering::Relaxed) == before
    }
}

/// Checks that each response is the documented one, and that few requests had to wait, none for
/// long.
fn check(scene: &Scene, all: &[Seen], denied: &[StatusCode]) {
    for (which, seen) in all.iter().enumerate() {
        let name = scene.apps[which].0;
        assert!(seen.len() > 3, "{name}: only {} answers", seen.len());
        for (status, time) in seen {
            let is_denied = which == AUTH && denied.contains(status);
            assert!(is_denied || *status == StatusCode::OK, "{name}: {status}");
            assert!(*time < scene.timeout + LATE, "{name}: {time:?}");
        }
    }
}

/// Checks that no request waits for a server that is known to be unavailable.
fn check_is_fast(scene: &Scene, all: &[Seen]) {
    for (which, seen) in all.iter().enumerate() {
        let name = scene.apps[which].0;
        let mut times: Vec<_> = seen.iter().map(|(_, time)| *time).collect();
        times.sort_unstable();
        let median = times[times.len() / 2];
        assert!(median < Duration::from_millis(10), "{name}: {median:?}");
    }
}

fn failed(all: &[Seen]) -> usize {
    let failed = |(status, _): &&(StatusCode, Duration)| *status != StatusCode::OK;
    all[AUTH].iter().filter(failed).count()
}

/// Lets a fault last, end, and heal. All requests are answered as documented meanwhile.
async fn endure(
    begin: impl AsyncFnOnce(&mut Scene),
    end: impl AsyncFnOnce(&mut Scene),
    denied: &[StatusCode],
) {
    let mut scene = Scene::new().await;
    begin(&mut scene).await;
    let seen = scene.load(Duration::from_millis(900)).await;
    check(&scene, &seen, denied);
    check_is_fast(&scene, &seen);
    assert!(failed(&seen) > 0, "nothing failed");
    end(&mut scene).await;
    scene.until_up(Duration::from_secs(10)).await;
    scene.is_sound(true).await;
}

const UNAVAILABLE: &[StatusCode] = &[StatusCode::SERVICE_UNAVAILABLE];

async fn behind_a_proxy(fault: Fault, denied: &[StatusCode]) {
    let begin = async |scene: &mut Scene| scene.proxy.set(fault);
    let end = async |scene: &mut Scene| scene.proxy.set(Fault::None);
    endure(begin, end, denied).await;
}

#[test]
fn server_hang_denies_keys_and_misses_the_cache_within_the_timeout() {
    on_a_calm_machine(async || {
        let begin = async |scene: &mut Scene| scene.server.freeze();
        endure(begin, async |scene| scene.server.thaw(), UNAVAILABLE).await;
    });
}

#[test]
fn after_a_crash_keys_are_gone_with_the_servers_data_and_all_else_heals() {
    on_a_calm_machine(async || {
        let scene = Scene::new().await;
        scene.server.kill();
        let seen = scene.load(Duration::from_millis(900)).await;
        check(&scene, &seen, UNAVAILABLE);
        check_is_fast(&scene, &seen);
        assert!(failed(&seen) > 0, "nothing failed");
        scene.server.restart();
        let begun = Instant::now();
        // The server has no persistence: no key is known after a restart, which is not an error.
        while scene.ask(AUTH).await != StatusCode::UNAUTHORIZED {
            assert!(begun.elapsed() < Duration::from_secs(10));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        scene.is_sound(false).await;
    });
}

#[test]
fn a_black_hole_denies_keys_and_misses_answers() {
    on_a_calm_machine(async || {
        behind_a_proxy(Fault::BlackHole, UNAVAILABLE).await;
    });
}

#[test]
fn a_half_open_connection_denies_keys_and_misses_answers() {
    on_a_calm_machine(async || {
        behind_a_proxy(Fault::HalfOpen, UNAVAILABLE).await;
    });
}

#[test]
fn a_reset_denies_keys_and_misses_answers() {
    on_a_calm_machine(async || {
        behind_a_proxy(Fault::Reset, UNAVAILABLE).await;
    });
}

#[test]
fn answers_byte_by_byte_deny_keys_and_miss_answers() {
    on_a_calm_machine(async || {
        behind_a_proxy(Fault::Slow(Duration::from_millis(20)), UNAVAILABLE).await;
    });
}

#[test]
fn corrupt_replies_authenticate_no_key_and_serve_no_entry() {
    on_a_calm_machine(async || {
        let errors = [
            StatusCode::SERVICE_UNAVAILABLE,
            StatusCode::INTERNAL_SERVER_ERROR,
        ];
        behind_a_proxy(Fault::Corrupt, &errors).await;
    });
}

#[test]
fn a_server_that_becomes_a_replica_denies_keys_and_misses_answers() {
    on_a_calm_machine(async || {
        let begin = async |scene: &mut Scene| {
            scene.server.ask(&["REPLICAOF", "127.0.0.1", "1"]);
        };
        let end = async |scene: &mut Scene| {
            scene.server.ask(&["REPLICAOF", "NO", "ONE"]);
        };
        endure(begin, end, UNAVAILABLE).await;
    });
}

#[test]
fn a_full_server_still_knows_keys_and_loses_records() {
    on_a_calm_machine(async || {
        let scene = Scene::patient().await;
        scene.server.ask(&["CONFIG", "SET", "maxmemory", "1"]);
        let seen = scene.load(Duration::from_millis(400)).await;
        check(&scene, &seen, &[]);
        let lost =
            scene.queue.drop_counts(LogStream::Access).store_failed + scene.queue.pending() as u64;
        assert!(lost > 0, "nothing was lost");
        scene.server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
        scene.is_sound(true).await;
    });
}

#[test]
fn flushed_scripts_fail_no_request() {
    on_a_calm_machine(async || {
        let scene = Scene::patient().await;
        let (seen, ()) = tokio::join!(scene.load(Duration::from_millis(400)), async {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_millis(30)).await;
                scene.server.ask(&["SCRIPT", "FLUSH"]);
            }
        });
        check(&scene, &seen, &[]);
        scene.is_sound(true).await;
    });
}

#[test]
fn flush_makes_keys_unknown_and_fails_nothing_else() {
    on_a_calm_machine(async || {
        let scene = Scene::patient().await;
        scene.server.ask(&["FLUSHALL"]);
        let seen = scene.load(Duration::from_millis(300)).await;
        check(&scene, &seen, &[StatusCode::UNAUTHORIZED]);
        assert_eq!(failed(&seen), seen[AUTH].len());
        scene.is_sound(true).await;
    });
}

#[test]
fn lost_reply_is_never_matched_to_another_call() {
    on_a_calm_machine(async || {
        let scene = Scene::new().await;
        for _ in 0..3 {
            scene.proxy.set(Fault::Swallow(1));
            let seen = scene.load(Duration::from_millis(200)).await;
            check(&scene, &seen, UNAVAILABLE);
            scene.until_up(Duration::from_secs(10)).await;
        }
        scene.is_sound(true).await;
    });
}
