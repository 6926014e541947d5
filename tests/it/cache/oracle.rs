//! No caller receives another caller's response: an oracle over random interleavings.
//!
//! Every body names the caller for whom it was made, its URL and its variant. A seed decides the
//! callers, their requests and their validators, when the handler responds, when clients
//! disconnect, when rights change, when the handler fails, and what is changed and purged: by URL,
//! tag and caller, hard and soft. Callers differ in their owner and metadata alone, and some URLs
//! are nested: the cache and the handler see them without their prefix. A failure prints its seed.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::Full;
use portcullis::{
    ClientUri, Identity, ManualClock, Runtime, Task,
    cache::{Cache, CacheLayer, CachePurger, Purge, PurgeMode, body::CacheBody},
    store::MemoryStore,
};
use tower::{Layer, Service};

use crate::support::{door::Door, request};

/// The number of seeds for each of the two kinds of route.
const SEEDS: u64 = 10_000;
/// The number of steps of each seed.
const STEPS: usize = 40;
/// The paths that clients send.
const PATHS: [&str; 5] = ["/a/own", "/b/own", "/public", "/stale", "/never"];

/// A defect of a cache, for the oracle to catch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    /// All callers have one identity.
    AllAreOne,
    /// The client's URI is not known to the cache.
    NestsAreOne,
}

#[test]
fn no_callers_answer_ever_reaches_another() {
    try_all(|seed| World::new(seed, false, Flaw::None));
}

#[test]
fn no_callers_answer_ever_reaches_another_where_a_route_shares() {
    try_all(|seed| World::new(seed, true, Flaw::None));
}

fn try_all(world: impl Fn(u64) -> World) {
    let hits: u64 = (0..SEEDS).map(|seed| world(seed).run()).sum();
    // A cache that never answers proves nothing.
    assert!(hits > SEEDS / 8, "{hits} hits in {SEEDS} seeds");
}

#[test]
fn oracle_detects_responses_served_to_other_callers() {
    for flaw in [Flaw::AllAreOne, Flaw::NestsAreOne] {
        let caught = (0..100).any(|seed| {
            let world = std::panic::catch_unwind(|| World::new(seed, false, flaw).run());
            world.is_err()
        });
        let what = match flaw {
            Flaw::None => "nothing",
            Flaw::AllAreOne => "a cache for which all callers are one",
            Flaw::NestsAreOne => "a cache for which all nested routers are one",
        };
        assert!(caught, "{what} is not caught");
    }
}

/// Small, and good enough to choose by.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }
}

/// A handler whose responses are released by the test.
#[derive(Clone, Default)]
struct Origin {
    doors: Arc<Mutex<Vec<Door>>>,
    /// Counts the responses, including failures.
    responses: Arc<AtomicU64>,
    /// Counts the changes: a response names the version of the state that it was made from.
    versions: Arc<Mutex<HashMap<String, u64>>>,
}

impl Service<Request<Full<Bytes>>> for Origin {
    type Response = Response<Pieces>;
    type Error = Infallible;
    type Future = PendingResponse;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> PendingResponse {
        let (head, body) = (Door::default(), Door::default());
        self.doors
            .lock()
            .unwrap()
            .extend([head.clone(), body.clone()]);
        let response = self.respond(&request, body);
        PendingResponse(head, Some(response))
    }
}

impl Origin {
    fn respond(&self, request: &Request<Full<Bytes>>, door: Door) -> Response<Pieces> {
        let path = request.extensions().get::<Sent>().unwrap().0;
        let mut versions = self.versions.lock().unwrap();
        let version = versions.entry(path.to_owned()).or_default();
        *version += u64::from(request.method() == Method::POST);
        let caller = request.extensions().get::<Caller>().unwrap();
        let variant = request.headers().get("accept");
        let variant = variant.map_or("-", |value| value.to_str().unwrap());
        // A public response carries no caller's name.
        let made_for = match path {
            "/public" => "all",
            _ => &caller.0,
        };
        let body = format!("{made_for} {path} {variant} {version}");
        let mut response = match *request.method() {
            Method::HEAD => Response::new(Pieces::default()),
            _ => Response::new(Pieces::new(&body, door)),
        };
        let control = match path {
            "/public" => "public, max-age=5",
            "/stale" => "max-age=2, stale-while-revalidate=3, stale-if-error=3",
            "/never" => "no-store",
            _ => "max-age=5",
        };
        let headers = response.headers_mut();
        headers.insert("cache-control", HeaderValue::from_static(control));
        headers.insert("vary", HeaderValue::from_static("accept"));
        let tags = match path {
            "/a/own" | "/b/own" => "own some",
            "/stale" => "stale some",
            _ => "public",
        };
        headers.insert("surrogate-key", HeaderValue::from_static(tags));
        let tag = HeaderValue::try_from(format!("\"{}\"", body.replace(' ', "_"))).unwrap();
        let responses = self.responses.fetch_add(1, Ordering::Relaxed);
        if path == "/stale" && request.method() != Method::POST && responses % 5 == 4 {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        } else if request.headers().get("if-none-match") == Some(&tag) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            *response.body_mut() = Pieces::default();
        }
        response.headers_mut().insert("etag", tag);
        response
    }
}

#[derive(Clone)]
struct Caller(String);

/// The path that the client sent, for the handler.
#[derive(Clone)]
struct Sent(&'static str);

struct PendingResponse(Door, Option<Response<Pieces>>);

impl Future for PendingResponse {
    type Output = Result<Response<Pieces>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let opened = self.0.poll(cx);
        opened.map(|()| Ok(self.1.take().unwrap()))
    }
}

/// A body in two pieces, with a door between them.
#[derive(Default)]
struct Pieces {
    pieces: Vec<Bytes>,
    door: Door,
}

impl Pieces {
    fn new(text: &str, door: Door) -> Self {
        let (first, last) = text.as_bytes().split_at(text.len() / 2);
        Self {
            pieces: vec![Bytes::copy_from_slice(last), Bytes::copy_from_slice(first)],
            door,
        }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.pieces.len() == 1 && self.door.poll(cx).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(self.pieces.pop().map(|piece| Ok(Frame::data(piece))))
    }
}

type Call = Pin<Box<dyn Future<Output = Result<Response<CacheBody<Pieces>>, Infallible>>>>;

type Reading = Pin<Box<CacheBody<Pieces>>>;

/// A request in flight.
struct Asking {
    expected: Expected,
    call: Option<Call>,
    response: Option<(Response<()>, Reading)>,
    read: Vec<u8>,
}

/// The response that a client is allowed to receive.
struct Expected {
    method: Method,
    caller: String,
    path: &'static str,
    variant: &'static str,
    /// The version at the time of the request: no older one may be served.
    version: u64,
    /// The tag of what it has already.
    has: Option<String>,
}

/// Keeps tasks for the world to run, and lets no time pass.
#[derive(Clone, Default)]
struct Tasks(Arc<Mutex<Vec<Task>>>);

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tasks")
    }
}

impl Runtime for Tasks {
    fn spawn(&self, task: Task) {
        self.0.lock().unwrap().push(task);
    }

    fn sleep(&self, _: Duration) -> Task {
        Box::pin(std::future::pending())
    }
}

struct World {
    seed: u64,
    dice: Dice,
    clock: ManualClock,
    origin: Origin,
    cache: Cache<Origin>,
    purger: CachePurger,
    shares: bool,
    tasks: Tasks,
    asking: Vec<Asking>,
    /// The number of changes to each caller's rights.
    rights: [u64; 2],
    /// The changes that have been made and confirmed.
    changed: HashMap<&'static str, u64>,
    /// The same for purges of a single caller's responses.
    changed_for: HashMap<(String, &'static str), u64>,
    /// The tag that each caller got last.
    tags: HashMap<(String, &'static str), String>,
    flaw: Flaw,
    hits: u64,
}

impl World {
    fn new(seed: u64, shares: bool, flaw: Flaw) -> Self {
        let (clock, tasks, origin) = (ManualClock::default(), Tasks::default(), Origin::default());
        let store = MemoryStore::builder()
            .clock(clock.clone())
            .max_cache_bytes(1 << 20)
            .max_rate_limit_partitions(1)
            .build()
            .unwrap();
        let layer = CacheLayer::secure(store)
            .clock(clock.clone())
            .runtime(tasks.clone())
            // In every other world, small enough to finish responses whose clients disconnect.
            .max_body_bytes(if seed.is_multiple_of(2) {
                1 << 10
            } else {
                1 << 20
            })
            .share_public_responses(shares)
            .build()
            .unwrap();
        Self {
            seed,
            dice: Dice(seed * 2 + 1),
            clock,
            cache: layer.layer(origin.clone()),
            purger: layer.purger(),
            shares,
            origin,
            tasks,
            asking: Vec::new(),
            rights: [0; 2],
            changed: HashMap::new(),
            changed_for: HashMap::new(),
            tags: HashMap::new(),
            flaw,
            hits: 0,
        }
    }

    /// Does as the dice say, then lets all come to its end. Returns how often the store answered.
    fn run(mut self) -> u64 {
        for _ in 0..STEPS {
            match self.dice.roll(25) {
                0..6 => self.ask(),
                6..12 => self.open_a_door(),
                12..18 => self.poll_one(),
                18..21 => (0..self.asking.len()).rev().for_each(|at| self.poll(at)),
                21 => self.run_tasks(),
                22 => self.clock.advance(Duration::from_secs(1)),
                // Without purges there are more hits.
                23 if self.seed.is_multiple_of(2) => self.purge(),
                23 => {}
                _ => self.disconnect_or_change_rights(),
            }
        }
        for _ in 0..100 {
            for door in self.origin.doors.lock().unwrap().drain(..) {
                door.open();
            }
            self.run_tasks();
            for at in (0..self.asking.len()).rev() {
                self.poll(at);
            }
            if self.asking.is_empty() {
                break;
            }
        }
        let left = self.asking.len();
        assert_eq!(
            left, 0,
            "seed {}: {left} requests get no response",
            self.seed
        );
        self.hits
    }

    fn ask(&mut self) {
        let who = self.dice.roll(3) as usize;
        let path = PATHS[self.dice.roll(PATHS.len() as u64) as usize];
        let variant = ["-", "-", "-", "x"][self.dice.roll(4) as usize];
        let method = match self.dice.roll(10) {
            // A seed without changes is cheaper to try, and as good at all else.
            0 if self.seed.is_multiple_of(4) => Method::POST,
            1 => Method::HEAD,
            _ => Method::GET,
        };
        let caller = self.name(who);
        let mut request = self.request(method.clone(), path);
        if let Some(identity) = self.identity(who) {
            request.extensions_mut().insert(identity);
        }
        request.extensions_mut().insert(Caller(caller.clone()));
        let headers = request.headers_mut();
        if variant != "-" {
            headers.insert("accept", HeaderValue::from_static(variant));
        }
        if self.dice.one_in(6) {
            headers.insert("range", HeaderValue::from_static("bytes=0-7"));
        }
        let last = self.tags.get(&(caller.clone(), path)).cloned();
        let has = last.filter(|_| method != Method::POST && self.dice.one_in(8));
        if let Some(has) = &has {
            headers.insert("if-none-match", HeaderValue::try_from(has).unwrap());
        }
        let everywhere = self.changed.get(path).copied().unwrap_or(0);
        let here = self.changed_for.get(&(caller.clone(), path));
        let version = everywhere.max(here.copied().unwrap_or(0));
        self.asking.push(Asking {
            expected: Expected {
                method,
                caller,
                path,
                variant,
                version,
                has,
            },
            call: Some(Box::pin(self.cache.call(request))),
            response: None,
            read: Vec::new(),
        });
    }

    /// Makes a request as a nested router passes it on: without the prefix of its path.
    fn request(&self, method: Method, path: &'static str) -> Request<Full<Bytes>> {
        let seen = path.rfind('/').map_or(path, |at| &path[at..]);
        let mut request = request(method, seen);
        if self.flaw != Flaw::NestsAreOne {
            let sent = ClientUri(http::Uri::from_static(path));
            request.extensions_mut().insert(sent);
        }
        request.extensions_mut().insert(Sent(path));
        request
    }

    fn name(&self, who: usize) -> String {
        match self.rights.get(who) {
            Some(rights) => format!("caller{who}.{rights}"),
            None => "nobody".to_owned(),
        }
    }

    fn identity(&self, who: usize) -> Option<Identity> {
        let rights = self.rights.get(who)?;
        let one = Identity::builder("one");
        let identity = match self.flaw {
            Flaw::AllAreOne => one,
            Flaw::None | Flaw::NestsAreOne => {
                let owned = one.owner(format!("owner{who}"));
                owned.metadata("rights", rights.to_string())
            }
        };
        Some(identity.build())
    }

    /// Changes a resource behind the cache's back, and purges its entries.
    fn purge(&mut self) {
        let who = self.dice.roll(2) as usize;
        let (what, mut paths) = match self.dice.roll(6) {
            0 => (Purge::uri("/a/own".parse().unwrap()), vec!["/a/own"]),
            1 => (Purge::uri("/public".parse().unwrap()), vec!["/public"]),
            2 => (Purge::tag("public"), vec!["/public"]),
            3 => (Purge::tag("some"), vec!["/a/own", "/b/own", "/stale"]),
            4 => (Purge::All, PATHS.to_vec()),
            _ => (Purge::Caller(self.identity(who).unwrap()), PATHS.to_vec()),
        };
        let is_by_caller = matches!(what, Purge::Caller(_));
        let mode = match self.dice.one_in(3) {
            true => PurgeMode::Soft,
            false => PurgeMode::Hard,
        };
        // A response that a caller shares with others is not purged with the caller's own. After a
        // soft purge, a response can be served stale during revalidation.
        paths.retain(|path| !(is_by_caller && self.shares && *path == "/public"));
        paths.retain(|path| !(mode == PurgeMode::Soft && *path == "/stale"));
        let mut versions = self.origin.versions.lock().unwrap();
        let name = self.name(who);
        let purged = self.purger.purge([what], mode).into_ready();
        for path in paths {
            let version = versions.entry(path.to_owned()).or_default();
            *version += 1;
            let changed = match is_by_caller {
                true => self.changed_for.entry((name.clone(), path)).or_default(),
                false => self.changed.entry(path).or_default(),
            };
            *changed = *version;
        }
        purged.ready().unwrap().unwrap();
    }

    fn open_a_door(&mut self) {
        let mut doors = self.origin.doors.lock().unwrap();
        if !doors.is_empty() {
            let at = self.dice.roll(doors.len() as u64) as usize;
            let door = doors.remove(at);
            drop(doors);
            door.open();
        }
    }

    fn poll_one(&mut self) {
        if !self.asking.is_empty() {
            let at = self.dice.roll(self.asking.len() as u64) as usize;
            self.poll(at);
        }
    }

    fn disconnect_or_change_rights(&mut self) {
        if self.dice.one_in(3) {
            let who = self.dice.roll(2) as usize;
            self.rights[who] += 1;
        } else if !self.asking.is_empty() {
            let at = self.dice.roll(self.asking.len() as u64) as usize;
            self.asking.swap_remove(at);
        }
    }

    fn run_tasks(&mut self) {
        let mut tasks = std::mem::take(&mut *self.tasks.0.lock().unwrap());
        let mut cx = Context::from_waker(Waker::noop());
        tasks.retain_mut(|task| task.as_mut().poll(&mut cx).is_pending());
        self.tasks.0.lock().unwrap().append(&mut tasks);
    }

    fn poll(&mut self, at: usize) {
        let mut cx = Context::from_waker(Waker::noop());
        let asking = &mut self.asking[at];
        if let Some(call) = &mut asking.call {
            let Poll::Ready(Ok(response)) = call.as_mut().poll(&mut cx) else {
                return;
            };
            let (parts, body) = response.into_parts();
            asking.call = None;
            asking.response = Some((Response::from_parts(parts, ()), Box::pin(body)));
        }
        let (response, body) = asking.response.as_mut().unwrap();
        while let Poll::Ready(frame) = body.as_mut().poll_frame(&mut cx) {
            match frame {
                Some(Ok(frame)) => asking.read.extend_from_slice(frame.data_ref().unwrap()),
                Some(Err(error)) => panic!("seed {}: {error}", self.seed),
                None => {
                    let seen = String::from_utf8(std::mem::take(&mut asking.read)).unwrap();
                    let status = response.headers().get("cache-status").unwrap();
                    self.hits += u64::from(status.to_str().unwrap().contains("; hit"));
                    let expected = &asking.expected;
                    let quoted = response.headers().get("etag").unwrap().to_str().unwrap();
                    let tag = quoted.trim_matches('"').replace('_', " ");
                    let place = (expected.caller.clone(), expected.path);
                    self.tags.insert(place, quoted.to_owned());
                    if let Err(wrong) = expected.check(&tag, &seen, response.status()) {
                        panic!("seed {}: {wrong}: {tag:?} {seen:?} {status:?}", self.seed);
                    }
                    if expected.method == Method::POST {
                        let version: u64 = tag.rsplit(' ').next().unwrap().parse().unwrap();
                        let changed = self.changed.entry(expected.path).or_default();
                        *changed = version.max(*changed);
                    }
                    self.asking.swap_remove(at);
                    return;
                }
            }
        }
    }
}

impl Expected {
    /// Checks a response: the tag describes the whole representation; the body can be a part.
    fn check(&self, tag: &str, seen: &str, status: StatusCode) -> Result<(), &'static str> {
        let mut words = tag.split(' ');
        let mut next = || words.next().unwrap_or_default();
        let (made_for, path, variant, version) = (next(), next(), next(), next());
        let may_see = match self.path {
            "/public" => "all",
            _ => &self.caller,
        };
        if made_for != may_see {
            return Err("another caller's response");
        }
        if path != self.path || variant != self.variant {
            return Err("a response to another request");
        }
        if version.parse().unwrap_or(0) < self.version {
            return Err("a response from before a change");
        }
        let complete = match status {
            StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE if self.method == Method::HEAD => {
                seen.is_empty()
            }
            StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE => seen == tag,
            StatusCode::PARTIAL_CONTENT => seen == &tag[..8],
            StatusCode::NOT_MODIFIED => {
                let has = self.has.as_deref().unwrap_or_default();
                seen.is_empty() && has.trim_matches('"').replace('_', " ") == tag
            }
            _ => return Err("no answer"),
        };
        complete.then_some(()).ok_or("half an answer")
    }
}
