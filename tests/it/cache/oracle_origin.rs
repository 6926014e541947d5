//! The store follows the origin: an oracle over random histories.
//!
//! Each response of the handler has a number, and each `200` a version. A seed decides what the
//! handler responds and when: new versions, the same one, confirmations of this or another version,
//! responses that cannot be stored, failures, bodies that break off, and calls that hang. It also
//! decides what the clients send, when they disconnect, what is purged, and the keys of the store.
//! Once a client has received the head of a final response, no later request is sent an older
//! version. A failure prints its seed, which repeats it.

use std::{
    collections::HashMap,
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use portcullis::{
    Clock, Identity, ManualClock, Runtime, StoreFuture, Task,
    cache::{Cache, CacheLayer, CachePurger, CacheStore, Purge, PurgeMode, body::CacheBody},
    store::{
        MemoryStore, StoreKeys,
        backend::{
            CacheKey, Fence, Lookup, PurgeTarget, Put, PutOutcome, Selection, StoredResponse, Touch,
        },
    },
};
use tower::{Layer, Service};

use crate::support::{door::Door, header, request};

const SEEDS: u64 = 1_500;
const STEPS: usize = 60;
const WAIT_AT_MOST: Duration = Duration::from_secs(3);
const PATHS: [&str; 2] = ["/a", "/b"];
const VARIANTS: [&str; 2] = ["-", "x"];

#[test]
fn no_older_version_is_sent_after_a_final_response() {
    for is_rfc in [false, true] {
        let mut hits = 0;
        for seed in 0..SEEDS {
            hits += World::new(seed, is_rfc, Fault::None, false).run();
        }
        // A cache that never answers proves nothing.
        assert!(hits > SEEDS, "{hits} hits in {SEEDS} seeds");
    }
}

#[test]
fn one_call_at_a_time_fills_a_url() {
    for is_rfc in [false, true] {
        for seed in 0..SEEDS / 4 {
            World::new(seed, is_rfc, Fault::None, true).run();
        }
    }
}

#[test]
fn the_oracle_sees_a_fault() {
    for fault in [Fault::NoPurge, Fault::NoTouch, Fault::Mixed, Fault::Hangs] {
        let caught = (0..1_000).any(|seed| {
            let world = || World::new(seed, false, fault, false).run();
            std::panic::catch_unwind(world).is_err()
        });
        assert!(caught, "{fault:?} is not caught");
    }
}

/// A fault that is injected to prove that the oracle sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Purges are not executed.
    NoPurge,
    /// The store does not replace the head of a stored response.
    NoTouch,
    /// The handler sends the body of another version now and then.
    Mixed,
    /// No time passes for those who wait.
    Hangs,
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

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.roll(choices.len() as u64) as usize]
    }
}

/// The store in memory, some of whose methods may do nothing. Its keys are those of the seed.
#[derive(Clone, Debug)]
struct Store {
    inner: MemoryStore,
    keys: StoreKeys,
    touches: bool,
}

impl CacheStore for Store {
    fn keys(&self) -> &StoreKeys {
        &self.keys
    }

    fn get(&self, key: &CacheKey, selection: &Selection<'_>) -> StoreFuture<Lookup> {
        self.inner.get(key, selection)
    }

    fn put(&self, put: Put) -> StoreFuture<PutOutcome> {
        self.inner.put(put)
    }

    fn touch(&self, touch: Touch) -> StoreFuture<bool> {
        match self.touches {
            true => CacheStore::touch(&self.inner, touch),
            false => StoreFuture::ready(true),
        }
    }

    fn is_purged_since(
        &self,
        key: &CacheKey,
        entry: &StoredResponse,
        fence: Fence,
    ) -> StoreFuture<bool> {
        self.inner.is_purged_since(key, entry, fence)
    }

    fn purge(&self, targets: &[PurgeTarget], mode: PurgeMode) -> StoreFuture<()> {
        CacheStore::purge(&self.inner, targets, mode)
    }
}

/// Runs tasks when the world does, and sleeps by its clock.
#[derive(Clone)]
struct Tasks {
    tasks: Arc<Mutex<Vec<Task>>>,
    clock: ManualClock,
    sleeps: bool,
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tasks")
    }
}

impl Runtime for Tasks {
    fn spawn(&self, task: Task) {
        self.tasks.lock().unwrap().push(task);
    }

    fn sleep(&self, duration: Duration) -> Task {
        let (clock, sleeps) = (self.clock.clone(), self.sleeps);
        let until = clock.now() + duration;
        Box::pin(poll_fn(move |_| match sleeps && clock.now() >= until {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }))
    }
}

/// Returns `true` if the responses of a seed vary.
fn varies(seed: u64) -> bool {
    !seed.is_multiple_of(3)
}

/// All requests of one caller for one URL and variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place {
    who: usize,
    path: usize,
    variant: usize,
}

/// The outcome of a call of the handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// `200` with a new version.
    New,
    /// `200` with the current version.
    Same,
    /// `200` with a new version that may not be stored.
    NotStored(&'static str),
    /// Another final status.
    Status(u16),
    Failed(u16),
    Error,
    Hangs,
    /// The body is shorter or longer than announced, breaks off or hangs.
    Broken(Breaks),
    /// `304` that names the version that was asked for, or none.
    Confirms {
        names: bool,
    },
    /// `304` that names a new version.
    Contradicts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Breaks {
    Short,
    Long,
    Off,
    Hangs,
}

const KINDS: [Kind; 22] = [
    Kind::New,
    Kind::New,
    Kind::New,
    Kind::New,
    Kind::Same,
    Kind::Same,
    Kind::Same,
    Kind::NotStored("no-store"),
    Kind::NotStored("private"),
    Kind::NotStored("vary"),
    Kind::NotStored(""),
    Kind::Status(404),
    Kind::Status(403),
    Kind::Status(410),
    Kind::Status(302),
    Kind::Status(429),
    Kind::Failed(500),
    Kind::Failed(503),
    Kind::Error,
    Kind::Hangs,
    Kind::Broken(Breaks::Short),
    Kind::Broken(Breaks::Off),
];

const BREAKS: [Breaks; 4] = [Breaks::Short, Breaks::Long, Breaks::Off, Breaks::Hangs];
const CONTROLS: [&str; 7] = [
    "max-age=2",
    "max-age=5",
    "max-age=1, stale-while-revalidate=3",
    "max-age=1, stale-while-revalidate=60, stale-if-error=60",
    "max-age=1, stale-if-error=60",
    "no-cache",
    "max-age=3, proxy-revalidate",
];

/// The state of the handler.
struct Origin {
    seed: u64,
    dice: Dice,
    is_calm: bool,
    /// `true` if responses vary by `Accept`.
    varies: bool,
    mixes: bool,
    /// The last number that was given to a response or a version.
    last: u64,
    /// The current version of each place.
    current: HashMap<Place, u64>,
    /// The request that is being polled, unless it is a background task.
    polled: Option<u64>,
    calls: Vec<Call>,
    /// The doors that the world can open.
    doors: Vec<Door>,
}

/// A call of the handler, as the world holds it.
struct Call {
    asker: Option<u64>,
    place: Place,
    hangs: bool,
    /// `true` if another call for the place was in flight at some time before its response.
    overlaps: Arc<AtomicBool>,
    alive: Weak<()>,
}

type Shared = Arc<Mutex<Origin>>;

#[derive(Clone)]
struct Handler(Shared);

impl Service<Request<Full<Bytes>>> for Handler {
    type Response = Response<Pieces>;
    type Error = &'static str;
    type Future = PendingResponse;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> PendingResponse {
        let place = *request.extensions().get::<Place>().unwrap();
        let mut origin = self.0.lock().unwrap();
        let kind = origin.kind();
        let alive = Arc::new(());
        let door = origin.door(kind == Kind::Hangs);
        origin.calls.retain(|call| call.alive.strong_count() > 0);
        let others = origin.calls.iter().filter(|call| call.place == place);
        let overlaps = Arc::new(AtomicBool::new(others.clone().next().is_some()));
        others.for_each(|call| call.overlaps.store(true, Ordering::Relaxed));
        let call = Call {
            asker: origin.polled,
            place,
            overlaps: Arc::clone(&overlaps),
            hangs: matches!(kind, Kind::Hangs | Kind::Broken(Breaks::Hangs)),
            alive: Arc::downgrade(&alive),
        };
        origin.calls.push(call);
        if origin.is_calm {
            origin.check_calls();
        }
        drop(origin);
        PendingResponse {
            origin: Arc::clone(&self.0),
            request,
            kind,
            door,
            overlaps,
            alive,
        }
    }
}

struct PendingResponse {
    origin: Shared,
    request: Request<Full<Bytes>>,
    kind: Kind,
    door: Door,
    overlaps: Arc<AtomicBool>,
    alive: Arc<()>,
}

impl Future for PendingResponse {
    type Output = Result<Response<Pieces>, &'static str>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.kind == Kind::Hangs || self.door.poll(cx).is_pending() {
            return Poll::Pending;
        }
        let mut origin = self.origin.lock().unwrap();
        let mut made = origin.respond(&self.request, self.kind, &self.alive);
        if let (Ok(made), true) = (&mut made, self.overlaps.load(Ordering::Relaxed)) {
            let overlaps = HeaderValue::from_static("1");
            made.headers_mut().insert("x-overlaps", overlaps);
        }
        Poll::Ready(made)
    }
}

fn text(place: Place, version: u64) -> String {
    let Place { who, path, variant } = place;
    let padding = "x".repeat((version * 7 % 40) as usize);
    format!("{who} {path} {variant} {version} {padding}.")
}

fn etag(version: u64) -> String {
    // Some are weak.
    match version.is_multiple_of(5) {
        true => format!("W/\"{version}\""),
        false => format!("\"{version}\""),
    }
}

fn modified(version: u64) -> String {
    let (minutes, seconds) = (version / 60 % 60, version % 60);
    format!("Sun, 06 Nov 1994 08:{minutes:02}:{seconds:02} GMT")
}

/// Sets the validators of a version: an entity tag, a date, both or none.
fn validators(version: u64, headers: &mut HeaderMap) {
    if version % 4 < 2 {
        headers.insert("etag", HeaderValue::try_from(etag(version)).unwrap());
    }
    if matches!(version % 4, 1 | 2) {
        let modified = HeaderValue::try_from(modified(version)).unwrap();
        headers.insert("last-modified", modified);
    }
}

impl Origin {
    fn kind(&mut self) -> Kind {
        if self.is_calm {
            return self.dice.of(&[Kind::New, Kind::Same, Kind::Same]);
        }
        match self.dice.roll(12) {
            0 => Kind::Broken(self.dice.of(&BREAKS)),
            1 | 2 => Kind::Confirms {
                names: self.dice.one_in(2),
            },
            3 => Kind::Contradicts,
            _ => self.dice.of(&KINDS),
        }
    }

    /// Checks that one call at a time fills a URL of a caller.
    fn check_calls(&self) {
        for (at, call) in self.calls.iter().enumerate() {
            let mut others = self.calls[..at].iter();
            let is_alone = !others.any(|other| other.place == call.place);
            assert!(is_alone, "seed {}: two calls at once", self.seed);
        }
    }

    /// Makes a door that is open already, is opened by the world, or stays closed.
    fn door(&mut self, hangs: bool) -> Door {
        let door = Door::default();
        if hangs {
        } else if self.dice.one_in(3) {
            door.open();
        } else {
            self.doors.push(door.clone());
        }
        door
    }

    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn renew(&mut self, place: Place) -> u64 {
        let version = self.next();
        self.current.insert(place, version);
        version
    }

    fn respond(
        &mut self,
        request: &Request<Full<Bytes>>,
        kind: Kind,
        alive: &Arc<()>,
    ) -> Result<Response<Pieces>, &'static str> {
        let place = *request.extensions().get::<Place>().unwrap();
        let asked = asked_version(request.headers());
        let current = self.current.get(&place).copied();
        let precondition = request.headers().get("if-match");
        let precondition = precondition.map(|tag| tag.to_str().unwrap().to_owned());
        let mut response = Response::new(Pieces::default());
        let (status, version, control) = match kind {
            Kind::Error => return Err("failed"),
            Kind::Failed(status) => (status, None, ""),
            Kind::Status(status) => (status, Some(self.next()), ""),
            _ if precondition.is_some_and(|tag| current.map(etag) != Some(tag)) => (412, None, ""),
            Kind::Confirms { names } if asked.is_some() && asked == current => {
                if names {
                    validators(asked.unwrap(), response.headers_mut());
                }
                (304, asked, self.dice.of(&CONTROLS))
            }
            Kind::Contradicts if asked.is_some() => {
                let version = self.renew(place);
                let tag = HeaderValue::try_from(format!("\"{version}\"")).unwrap();
                response.headers_mut().insert("etag", tag);
                (304, Some(version), self.dice.of(&CONTROLS))
            }
            Kind::Same if asked.is_some() && asked == current => {
                validators(asked.unwrap(), response.headers_mut());
                (304, asked, self.dice.of(&CONTROLS))
            }
            Kind::Same => {
                let version = current.unwrap_or_else(|| self.renew(place));
                (200, Some(version), self.dice.of(&CONTROLS))
            }
            Kind::NotStored("vary") => {
                let any = HeaderValue::from_static("*");
                response.headers_mut().append("vary", any);
                (200, Some(self.renew(place)), "max-age=5")
            }
            Kind::NotStored(control) => (200, Some(self.renew(place)), control),
            Kind::New | Kind::Hangs | Kind::Broken(_) | Kind::Confirms { .. } => {
                (200, Some(self.renew(place)), self.dice.of(&CONTROLS))
            }
            Kind::Contradicts => (200, Some(self.renew(place)), self.dice.of(&CONTROLS)),
        };
        let control = if self.is_calm { "max-age=60" } else { control };
        let number = self.next();
        let headers = response.headers_mut();
        headers.insert("x-number", HeaderValue::from(number));
        if self.varies {
            headers.append("vary", HeaderValue::from_static("accept"));
        }
        if !control.is_empty() {
            let control = HeaderValue::from_static(control);
            headers.insert("cache-control", control);
        }
        if let Some(version) = version {
            headers.insert("x-version", HeaderValue::from(version));
            if status == 200 {
                validators(version, headers);
            }
        }
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        let seen = match self.mixes && number.is_multiple_of(50) {
            true => version.unwrap_or(0) + 1,
            false => version.unwrap_or(0),
        };
        if status != 304 {
            self.fill(request, place, seen, kind, &mut response);
        }
        response.body_mut().alive = Some(Arc::clone(alive));
        Ok(response)
    }

    fn fill(
        &mut self,
        request: &Request<Full<Bytes>>,
        place: Place,
        version: u64,
        kind: Kind,
        response: &mut Response<Pieces>,
    ) {
        let mut body = text(place, version);
        let headers = response.headers_mut();
        if *request.method() == Method::HEAD {
            match self.dice.roll(4) {
                0 => {
                    headers.remove("etag");
                    headers.remove("last-modified");
                }
                _ => drop(headers.insert("content-length", HeaderValue::from(body.len()))),
            }
            return;
        }
        let breaks = match kind {
            Kind::Broken(breaks) => Some(breaks),
            _ => None,
        };
        if response.status() == 200
            && breaks.is_none()
            && request.headers().contains_key("range")
            && self.dice.one_in(2)
        {
            let range = format!("bytes 2-6/{}", body.len());
            let headers = response.headers_mut();
            headers.insert("content-range", HeaderValue::try_from(range).unwrap());
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            body = body[2..7].to_owned();
        }
        let headers = response.headers_mut();
        if breaks.is_some() || self.dice.one_in(2) {
            headers.insert("content-length", HeaderValue::from(body.len()));
        }
        if breaks.is_some() {
            headers.insert("x-broken", HeaderValue::from_static("1"));
        }
        let door = self.door(breaks == Some(Breaks::Hangs));
        let announces = self.dice.one_in(2) && breaks.is_none();
        *response.body_mut() = Pieces::new(&body, door, breaks, announces);
    }
}

/// Returns the version that the fields of a request name.
fn asked_version(headers: &HeaderMap) -> Option<u64> {
    if let Some(tag) = header(headers, "if-none-match") {
        return tag.trim_start_matches("W/").trim_matches('"').parse().ok();
    }
    let since = header(headers, "if-modified-since")?;
    let (minutes, seconds) = (since.get(20..22)?, since.get(23..25)?);
    let (minutes, seconds): (u64, u64) = (minutes.parse().ok()?, seconds.parse().ok()?);
    Some(minutes * 60 + seconds)
}

/// A body in two pieces, with a door between them.
#[derive(Default)]
struct Pieces {
    pieces: Vec<Result<Bytes, &'static str>>,
    door: Door,
    bytes: Option<u64>,
    alive: Option<Arc<()>>,
}

impl Pieces {
    fn new(text: &str, door: Door, breaks: Option<Breaks>, announces: bool) -> Self {
        let (first, last) = text.as_bytes().split_at(text.len() / 2);
        let (first, last) = (Bytes::copy_from_slice(first), Bytes::copy_from_slice(last));
        let pieces = match breaks {
            Some(Breaks::Short) => vec![Ok(first)],
            Some(Breaks::Long) => vec![Ok([&last[..]; 2].concat().into()), Ok(first)],
            Some(Breaks::Off) => vec![Err("broken off"), Ok(first)],
            Some(Breaks::Hangs) | None => vec![Ok(last), Ok(first)],
        };
        Self {
            pieces,
            door,
            bytes: announces.then_some(text.len() as u64),
            alive: None,
        }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        if self.pieces.len() == 1 && self.door.poll(cx).is_pending() {
            return Poll::Pending;
        }
        let piece = self.pieces.pop();
        if self.pieces.is_empty() {
            self.alive = None;
        }
        Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
    }

    fn size_hint(&self) -> SizeHint {
        match self.bytes {
            Some(bytes) => SizeHint::with_exact(bytes),
            None => SizeHint::default(),
        }
    }
}

type Called = Result<Response<CacheBody<Pieces>>, &'static str>;

/// A body that its client reads.
type Reading = Pin<Box<CacheBody<Pieces>>>;

/// A request in flight.
struct Asking {
    id: u64,
    asked: Asked,
    call: Option<Pin<Box<dyn Future<Output = Called>>>>,
    response: Option<(Response<()>, Reading)>,
    read: Vec<u8>,
}

impl Asking {
    /// Returns whether it streams the response of another request.
    fn streams(&self) -> bool {
        let response = self.response.as_ref().map(|(response, _)| response);
        let status = response.and_then(|response| header(response.headers(), "cache-status"));
        status.is_some_and(|status| status.contains("; collapsed"))
    }
}

/// The request of a client.
struct Asked {
    method: Method,
    place: Place,
    condition: Option<(&'static str, u64)>,
    range: bool,
    /// The lower bound from what had been received or purged when it was sent.
    floor: Floor,
}

/// The lower bound on the responses to later requests.
#[derive(Clone, Copy, Debug, Default)]
struct Floor {
    number: u64,
    /// The version that was current then, if it was a version.
    version: Option<u64>,
    /// No version up to this one was left by a purge.
    purged: u64,
}

struct World {
    seed: u64,
    dice: Dice,
    clock: ManualClock,
    origin: Shared,
    cache: Cache<Handler>,
    purger: CachePurger,
    tasks: Tasks,
    asking: Vec<Asking>,
    floors: HashMap<Place, Floor>,
    /// The versions that clients have.
    versions: HashMap<Place, u64>,
    next_id: u64,
    is_rfc: bool,
    is_calm: bool,
    fault: Fault,
    hits: u64,
}

impl World {
    fn new(seed: u64, is_rfc: bool, fault: Fault, is_calm: bool) -> Self {
        let clock = ManualClock::default();
        let mut secret = [0; 32];
        secret[..8].copy_from_slice(&seed.to_le_bytes());
        let store = Store {
            keys: StoreKeys::from_secret(&secret).unwrap(),
            inner: MemoryStore::builder()
                .clock(clock.clone())
                .max_cache_bytes(1 << 20)
                .max_rate_limit_partitions(1)
                .build()
                .unwrap(),
            touches: fault != Fault::NoTouch,
        };
        let tasks = Tasks {
            tasks: Arc::default(),
            clock: clock.clone(),
            sleeps: fault != Fault::Hangs,
        };
        let builder = match is_rfc {
            true => CacheLayer::rfc(store),
            false => CacheLayer::secure(store),
        };
        let mut dice = Dice(seed * 2 + 1);
        let layer = builder
            .clock(clock.clone())
            .runtime(tasks.clone())
            .max_wait(WAIT_AT_MOST)
            .refresh_timeout(WAIT_AT_MOST)
            .max_finish_bytes(if dice.one_in(3) { 0 } else { 1 << 10 })
            .max_waiters(if is_calm || !dice.one_in(4) {
                64
            } else {
                dice.roll(2) as usize
            })
            .build()
            .unwrap();
        let origin = Origin {
            seed,
            dice: Dice(seed * 2 + 7),
            is_calm,
            varies: varies(seed),
            mixes: fault == Fault::Mixed,
            last: 0,
            current: HashMap::new(),
            polled: None,
            calls: Vec::new(),
            doors: Vec::new(),
        };
        let origin = Arc::new(Mutex::new(origin));
        Self {
            seed,
            dice,
            cache: layer.layer(Handler(Arc::clone(&origin))),
            purger: layer.purger(),
            clock,
            origin,
            tasks,
            asking: Vec::new(),
            floors: HashMap::new(),
            versions: HashMap::new(),
            next_id: 0,
            is_rfc,
            is_calm,
            fault,
            hits: 0,
        }
    }

    /// Does as the dice say, then lets all come to its end. Returns how often the store answered.
    fn run(mut self) -> u64 {
        for _ in 0..STEPS {
            match self.dice.roll(20) {
                0..6 => self.ask(),
                6..10 => self.open_a_door(),
                10..15 => self.poll_all(),
                15 | 16 => self.run_tasks(),
                17 if self.is_calm && !self.asking.is_empty() => {}
                17 => self
                    .clock
                    .advance(Duration::from_secs(if self.is_calm { 61 } else { 1 })),
                18 if !self.is_calm && self.dice.one_in(2) => self.purge(),
                19 if !self.is_calm => self.go_away(),
                _ => self.poll_all(),
            }
        }
        self.settle();
        self.clock.advance(WAIT_AT_MOST + Duration::from_millis(1));
        self.settle();
        let origin = self.origin.lock().unwrap();
        for asking in &self.asking {
            let mut calls = origin.calls.iter();
            // A request that streams the response of another one hangs with it.
            let streamed = asking.streams().then_some(asking.asked.place.path);
            let own = |call: &Call| {
                let is_own = call.asker == Some(asking.id);
                call.hangs && (is_own || streamed == Some(call.place.path))
            };
            let hangs = calls.any(|call| own(call) && call.alive.strong_count() > 0);
            assert!(
                hangs,
                "seed {}: no end to {:?}",
                self.seed, asking.asked.place
            );
        }
        self.hits
    }

    /// Lets all go on that does not hang.
    fn settle(&mut self) {
        for _ in 0..40 {
            let doors = std::mem::take(&mut self.origin.lock().unwrap().doors);
            doors.iter().for_each(Door::open);
            self.run_tasks();
            self.poll_all();
            if self.asking.is_empty() && self.tasks.tasks.lock().unwrap().is_empty() {
                break;
            }
        }
    }

    fn ask(&mut self) {
        let place = Place {
            // If callers share public responses, those to anonymous requests direct other callers
            // elsewhere.
            who: match self.is_calm {
                true => self.seed as usize % 2,
                false => self.dice.roll(2) as usize,
            },
            path: self.dice.roll(2) as usize,
            variant: usize::from(self.dice.one_in(4) && varies(self.seed)),
        };
        let method = match self.dice.one_in(6) && !self.is_calm {
            true => Method::HEAD,
            false => Method::GET,
        };
        let mut request = request(method.clone(), PATHS[place.path]);
        if place.who == 1 {
            let identity = Identity::builder("caller").build();
            request.extensions_mut().insert(identity);
        }
        request.extensions_mut().insert(place);
        let headers = request.headers_mut();
        if place.variant == 1 {
            headers.insert("accept", HeaderValue::from_static(VARIANTS[1]));
        }
        let range = method == Method::GET && !self.is_calm && self.dice.one_in(6);
        if range {
            headers.insert("range", HeaderValue::from_static("bytes=2-6"));
        }
        let condition = self.condition(place);
        if let Some((name, version)) = condition {
            let value = match name {
                "if-modified-since" => modified(version),
                _ => etag(version),
            };
            headers.insert(name, HeaderValue::try_from(value).unwrap());
        }
        if self.is_rfc && !self.is_calm && self.dice.one_in(6) {
            headers.insert("cache-control", HeaderValue::from_static("no-cache"));
        }
        let asked = Asked {
            method,
            place,
            condition,
            range,
            floor: self.floors.get(&place).copied().unwrap_or_default(),
        };
        let id = self.next_id;
        self.next_id += 1;
        self.origin.lock().unwrap().polled = Some(id);
        let call = self.cache.call(request);
        self.origin.lock().unwrap().polled = None;
        self.asking.push(Asking {
            id,
            asked,
            call: Some(Box::pin(call)),
            response: None,
            read: Vec::new(),
        });
    }

    fn condition(&mut self, place: Place) -> Option<(&'static str, u64)> {
        let version = self.versions.get(&place).copied();
        let version = version.filter(|_| self.dice.one_in(3))?;
        match self.dice.roll(8) {
            0 if !self.is_calm => Some(("if-match", version)),
            1..4 if matches!(version % 4, 1 | 2) => Some(("if-modified-since", version)),
            _ if version % 4 < 2 => Some(("if-none-match", version)),
            _ => None,
        }
    }

    fn purge(&mut self) {
        let path = self.dice.roll(2) as usize;
        let mode = match self.dice.one_in(3) {
            true => PurgeMode::Soft,
            false => PurgeMode::Hard,
        };
        if self.fault != Fault::NoPurge {
            let purge = [Purge::uri(PATHS[path].parse().unwrap())];
            let purged = self.purger.purge(purge, mode).into_ready();
            purged.ready().unwrap().unwrap();
        }
        if mode == PurgeMode::Soft {
            return;
        }
        let mut origin = self.origin.lock().unwrap();
        let purged = origin.next();
        for (who, variant) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let place = Place { who, path, variant };
            if origin.current.contains_key(&place) {
                origin.renew(place);
            }
            self.floors.entry(place).or_default().purged = purged;
        }
    }

    fn open_a_door(&mut self) {
        let mut origin = self.origin.lock().unwrap();
        if !origin.doors.is_empty() {
            let at = self.dice.roll(origin.doors.len() as u64) as usize;
            let door = origin.doors.swap_remove(at);
            drop(origin);
            door.open();
        }
    }

    fn go_away(&mut self) {
        if !self.asking.is_empty() && self.dice.one_in(2) {
            let at = self.dice.roll(self.asking.len() as u64) as usize;
            self.asking.swap_remove(at);
        }
    }

    fn run_tasks(&mut self) {
        let mut tasks = std::mem::take(&mut *self.tasks.tasks.lock().unwrap());
        let mut cx = Context::from_waker(Waker::noop());
        tasks.retain_mut(|task| task.as_mut().poll(&mut cx).is_pending());
        self.tasks.tasks.lock().unwrap().append(&mut tasks);
    }

    fn poll_all(&mut self) {
        for at in (0..self.asking.len()).rev() {
            let id = self.asking[at].id;
            self.origin.lock().unwrap().polled = Some(id);
            self.poll(at);
            self.origin.lock().unwrap().polled = None;
        }
    }

    fn poll(&mut self, at: usize) {
        let mut cx = Context::from_waker(Waker::noop());
        let asking = &mut self.asking[at];
        if let Some(call) = &mut asking.call {
            let Poll::Ready(called) = call.as_mut().poll(&mut cx) else {
                return;
            };
            asking.call = None;
            let Ok(response) = called else {
                self.asking.swap_remove(at);
                return;
            };
            let (parts, body) = response.into_parts();
            let response = Response::from_parts(parts, ());
            let asked = &asking.asked;
            let seen = Seen::of(&response);
            let checked = seen.check(asked);
            self.checked(at, checked, &response);
            if !seen.is_overtakable() {
                self.raise(at, &seen);
            }
            self.asking[at].response = Some((response, Box::pin(body)));
        }
        self.read(at);
    }

    fn checked(&self, at: usize, checked: Result<(), &'static str>, response: &Response<()>) {
        let asked = &self.asking[at].asked;
        if let Err(wrong) = checked {
            panic!(
                "seed {} {}: {wrong}: {} {:?} {:?} range {} {:?}: {response:?} {:?}",
                self.seed,
                self.is_rfc,
                asked.method,
                asked.place,
                asked.condition,
                asked.range,
                asked.floor,
                String::from_utf8_lossy(&self.asking[at].read),
            );
        }
    }

    /// Raises the floor for later requests.
    fn raise(&mut self, at: usize, seen: &Seen) {
        let asked = &self.asking[at].asked;
        if let Some(version) = seen.version.filter(|_| seen.status == 200) {
            self.versions.insert(asked.place, version);
        }
        let tells = asked.method == Method::GET && seen.is_final;
        let floor = self.floors.entry(asked.place).or_default();
        if let Some(number) = seen.number.filter(|number| tells && *number > floor.number) {
            floor.number = number;
            floor.version = seen.version;
        }
    }

    fn read(&mut self, at: usize) {
        let mut cx = Context::from_waker(Waker::noop());
        let asking = &mut self.asking[at];
        let (_, body) = asking.response.as_mut().unwrap();
        let ended = loop {
            match body.as_mut().poll_frame(&mut cx) {
                Poll::Pending => return,
                Poll::Ready(Some(Ok(frame))) => {
                    asking.read.extend_from_slice(frame.data_ref().unwrap());
                }
                Poll::Ready(Some(Err(_))) => break false,
                Poll::Ready(None) => break true,
            }
        };
        let (response, _) = self.asking[at].response.take().unwrap();
        let seen = Seen::of(&response);
        let asking = &self.asking[at];
        let checked = seen.check_body(&asking.asked, &asking.read, ended);
        self.checked(at, checked, &response);
        self.hits += u64::from(seen.is_hit);
        if ended && seen.is_overtakable() {
            self.raise(at, &seen);
        }
        self.asking.swap_remove(at);
    }
}

/// A response as the client observes it.
struct Seen {
    status: u16,
    number: Option<u64>,
    version: Option<u64>,
    etag: Option<String>,
    length: Option<usize>,
    range: Option<String>,
    is_hit: bool,
    is_stored: bool,
    is_collapsed: bool,
    is_broken: bool,
    overlaps: bool,
    /// `true` if it reveals the current version.
    is_final: bool,
}

impl Seen {
    fn of(response: &Response<()>) -> Self {
        let headers = response.headers();
        let text = |name| header(headers, name).map(str::to_owned);
        let number = |name| header(headers, name).and_then(|value| value.parse().ok());
        let status = response.status().as_u16();
        let etag = text("etag");
        let overlaps = headers.contains_key("x-overlaps");
        let is_final = match status {
            500 | 502..=504 | 412 | 416 => false,
            // A part without a validator can be of any version, and one of another version does not
            // stop a response that is being stored.
            206 | 304 => etag.is_some() && !overlaps,
            _ => true,
        };
        let reported = text("cache-status").unwrap_or_default();
        Self {
            status,
            number: number("x-number"),
            version: number("x-version"),
            length: number("content-length").map(|length| length as usize),
            range: text("content-range"),
            is_hit: reported.contains("; hit"),
            is_stored: reported.contains("; stored"),
            is_collapsed: reported.contains("; collapsed"),
            overlaps,
            is_broken: headers.contains_key("x-broken"),
            is_final,
            etag,
        }
    }

    /// Returns `true` if an older response can still be stored before the body of this one is
    /// complete: that of a concurrent call.
    fn is_overtakable(&self) -> bool {
        self.overlaps && (self.is_stored || self.is_collapsed)
    }

    fn check(&self, asked: &Asked) -> Result<(), &'static str> {
        let Some((number, version)) = self.number.zip(self.version) else {
            return Ok(());
        };
        let floor = asked.floor;
        if version < floor.purged {
            return Err("a purged version");
        }
        if number < floor.number && Some(version) != floor.version {
            return Err("an older version");
        }
        let names = |tag: &String| tag.trim_start_matches("W/").trim_matches('"').parse().ok();
        let named = self.etag.as_ref().and_then(names);
        if named.is_some_and(|named: u64| named != version) {
            return Err("the validator of another version");
        }
        if self.is_hit && self.is_broken {
            return Err("a stored response that was not complete");
        }
        self.check_condition(asked, version)
    }

    fn check_condition(&self, asked: &Asked, version: u64) -> Result<(), &'static str> {
        let has = match asked.condition {
            Some(("if-match", _)) if self.is_hit => return Err("a precondition that was ignored"),
            Some(("if-none-match" | "if-modified-since", has)) => Some(has),
            Some(_) | None => None,
        };
        match (self.status, has) {
            (304, None) => Err("a comparison that was not requested"),
            (200 | 206, Some(has)) if self.is_hit && has == version && self.etag.is_some() => {
                Err("a version that the client has")
            }
            (206, _) if !asked.range => Err("a part that was not requested"),
            _ => Ok(()),
        }
    }

    fn check_body(&self, asked: &Asked, read: &[u8], ended: bool) -> Result<(), &'static str> {
        let Some(version) = self.version.filter(|_| !self.is_broken) else {
            return Ok(());
        };
        let whole = text(asked.place, version);
        if !ended {
            return Err("an error");
        }
        if asked.method == Method::HEAD || self.status == 304 {
            let length = self.length.unwrap_or(whole.len());
            let fits = read.is_empty() && (self.status == 304 || length == whole.len());
            return fits.then_some(()).ok_or("content, or another length");
        }
        let range = format!("bytes 2-6/{}", whole.len());
        let expected = match self.status {
            206 if self.range.as_ref() == Some(&range) => &whole[2..7],
            206 => return Err("another range"),
            _ => &*whole,
        };
        let fits = read == expected.as_bytes();
        let fits = fits && self.length.is_none_or(|length| length == expected.len());
        fits.then_some(()).ok_or("another body")
    }
}
