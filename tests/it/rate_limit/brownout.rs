//! Limits while the store decides one request, fails again, and loses charges.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use portcullis::{
    Identity, ManualClock, RequestHead, StoreErrorKind, StoreFuture,
    outcome::{RateLimitDecision, RateLimitOutcome, RecordHandle},
    rate_limit::{OnStoreError, Partition, Policy, Quota, RateLimitLayer, RateLimitStore},
    store::{
        MemoryStore, StoreKeys,
        backend::{Charge, Decisions, Refund, StoreKey},
    },
};
use tokio::sync::oneshot;
use tower::{Layer, ServiceExt, service_fn};

use crate::support::get;

/// The fate of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answered,
    /// The call never arrived, and this is known.
    Refused,
    /// The call never arrived, and neither side learns of it.
    Lost,
    /// The call was done, and its reply was lost.
    Unheard,
    /// The call was done. Its reply comes once it is released.
    Late,
}

use Fate::{Answered, Late, Lost, Refused, Unheard};

/// A server each of whose calls has the next fate of a list; the last one stays.
#[derive(Clone, Debug)]
struct Server {
    memory: MemoryStore,
    takes: Arc<Mutex<VecDeque<Fate>>>,
    charges: Arc<Mutex<VecDeque<Fate>>>,
    late: Arc<Mutex<Vec<oneshot::Sender<()>>>>,
    /// The cost of all decisions that were made and admitted the request.
    decided: Arc<AtomicU64>,
}

fn next(fates: &Mutex<VecDeque<Fate>>) -> Fate {
    let mut fates = fates.lock().unwrap();
    match fates.len() {
        1 => fates[0],
        _ => fates.pop_front().unwrap(),
    }
}

impl Server {
    fn new(clock: &ManualClock) -> Self {
        Self {
            memory: MemoryStore::with_clock(clock.clone()),
            takes: Arc::new(Mutex::new([Answered].into())),
            charges: Arc::new(Mutex::new([Answered].into())),
            late: Arc::default(),
            decided: Arc::default(),
        }
    }

    fn takes(&self, fates: impl IntoIterator<Item = Fate>) {
        *self.takes.lock().unwrap() = fates.into_iter().collect();
    }

    fn charges(&self, fates: impl IntoIterator<Item = Fate>) {
        *self.charges.lock().unwrap() = fates.into_iter().collect();
    }

    async fn release(&self) {
        for reply in self.late.lock().unwrap().drain(..) {
            reply.send(()).unwrap();
        }
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
    }

    fn call<T: Send + 'static>(
        &self,
        fate: Fate,
        call: impl FnOnce() -> StoreFuture<T>,
    ) -> StoreFuture<T> {
        match fate {
            Answered => call(),
            Refused => StoreFuture::failed(StoreErrorKind::Unavailable),
            Lost => StoreFuture::failed(StoreErrorKind::Timeout),
            Unheard => {
                drop(call());
                StoreFuture::failed(StoreErrorKind::Timeout)
            }
            Late => {
                let reply = call();
                let (sender, released) = oneshot::channel();
                self.late.lock().unwrap().push(sender);
                StoreFuture::pending(async move {
                    released.await.unwrap();
                    reply.await
                })
            }
        }
    }
}

impl RateLimitStore for Server {
    fn keys(&self) -> &StoreKeys {
        RateLimitStore::keys(&self.memory)
    }

    fn take(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions> {
        self.call(next(&self.takes), || {
            let decisions = self.memory.take(partition, charges).into_ready();
            let decisions = decisions.ready().expect("memory answers at once").unwrap();
            if decisions.is_admitted() {
                self.decided.fetch_add(charges[0].cost, SeqCst);
            }
            StoreFuture::ready(decisions)
        })
    }

    fn peek(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<Decisions> {
        self.memory.peek(partition, charges)
    }

    fn charge(&self, partition: &StoreKey, charges: &[Charge<'_>]) -> StoreFuture<()> {
        self.call(next(&self.charges), || {
            self.memory.charge(partition, charges)
        })
    }

    fn refund(&self, partition: &StoreKey, refunds: &[Refund<'_>]) -> StoreFuture<()> {
        self.memory.refund(partition, refunds)
    }

    fn reset(&self, partition: &StoreKey, policies: &[&Policy]) -> StoreFuture<()> {
        self.memory.reset(partition, policies)
    }
}

struct Scene {
    clock: ManualClock,
    server: Server,
    layer: RateLimitLayer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Server,
    Local,
    Denied,
}

impl Scene {
    fn new(policies: &[Policy], share: u32) -> Self {
        Self::costing(policies, share, 1)
    }

    fn costing(policies: &[Policy], share: u32, cost: u64) -> Self {
        let clock = ManualClock::default();
        let server = Server::new(&clock);
        let local = OnStoreError::local(MemoryStore::with_clock(clock.clone()), share);
        let layer = RateLimitLayer::builder(server.clone(), Partition::identity())
            .on_store_error(local)
            .cost(move |_, _| cost);
        let layer = policies
            .iter()
            .fold(layer, |layer, policy| layer.policy(policy.clone()));
        Self {
            layer: layer.build().unwrap(),
            clock,
            server,
        }
    }

    async fn send(&self) -> Seen {
        let mut request = as_caller(get("/"));
        request.extensions_mut().insert(RecordHandle::default());
        let inner = service_fn(|_: Request<Full<Bytes>>| async {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("served")))
        });
        let reply = self.layer.layer(inner).oneshot(request).await.unwrap();
        let outcome: &RateLimitOutcome = reply.extensions().get().unwrap();
        match outcome.decision {
            RateLimitDecision::Allowed => Seen::Server,
            RateLimitDecision::LocallyAllowed(_) => Seen::Local,
            RateLimitDecision::Denied | RateLimitDecision::LocallyDenied(_) => Seen::Denied,
            other => panic!("{other:?}"),
        }
    }

    /// Sends this many requests, and returns the number admitted.
    async fn admitted(&self, requests: usize) -> u64 {
        let mut admitted = 0;
        for _ in 0..requests {
            admitted += u64::from(self.send().await != Seen::Denied);
        }
        admitted
    }

    /// Returns the amount that the server has counted of the policy.
    async fn counted(&self, policy: &Policy) -> u64 {
        let request = as_caller(Request::new(()));
        let left = self.layer.handle().peek(&RequestHead::from(&request)).await;
        policy.capacity() - left.unwrap().unwrap().policies()[0].remaining
    }
}

fn as_caller<B>(mut request: Request<B>) -> Request<B> {
    let caller = Identity::builder("k1").build();
    request.extensions_mut().insert(caller);
    request
}

fn day(limit: u64) -> Quota {
    Quota::new(limit, Duration::from_secs(86_400))
}

fn every_algorithm(limit: u64) -> [Policy; 7] {
    named("p", limit)
}

fn named(name: &str, limit: u64) -> [Policy; 7] {
    [
        Policy::fixed_window(name, day(limit)).unwrap(),
        Policy::aligned_window(name, day(limit)).unwrap(),
        Policy::calendar_month(name, limit).unwrap(),
        Policy::sliding_window(name, day(limit)).unwrap(),
        Policy::sliding_log(name, day(limit)).unwrap(),
        Policy::token_bucket(name, day(limit)).unwrap(),
        Policy::leaky_bucket(name, day(limit)).unwrap(),
    ]
}

/// Numbers that only look random.
struct Seed(u64);

impl Seed {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

fn seeds() -> impl Iterator<Item = Seed> {
    (1..=25).map(|seed: u64| Seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

#[tokio::test]
async fn one_decision_per_connection_admits_no_more_than_the_limit_and_one_share() {
    for fate in [Lost, Unheard, Refused, Late, Answered] {
        for (share, part) in [(4, 25), (1, 100)] {
            for policy in every_algorithm(100) {
                let scene = Scene::new(std::slice::from_ref(&policy), share);
                scene.server.charges([fate]);
                let mut admitted = 0;
                for _ in 0..40 {
                    scene.server.takes([Answered, Lost]);
                    admitted += scene.admitted(60).await;
                    scene.clock.advance(Duration::from_secs(1));
                }
                assert!(admitted <= 100 + part, "{admitted}, {fate:?}, {policy:?}");
            }
        }
    }
}

#[tokio::test]
async fn six_freezes_admit_no_more_than_the_limit_and_one_share() {
    for policy in every_algorithm(100) {
        let scene = Scene::new(std::slice::from_ref(&policy), 4);
        let mut admitted = 0;
        for _ in 0..6 {
            scene.server.takes([Lost]);
            admitted += scene.admitted(200).await;
            scene.server.takes([Answered]);
            admitted += scene.admitted(3).await;
        }
        admitted += scene.admitted(200).await;
        assert!((100..=125).contains(&admitted), "{admitted}, {policy:?}");
    }
}

#[tokio::test]
async fn an_acknowledged_charge_frees_the_local_share_while_something_is_left() {
    for policy in every_algorithm(100) {
        let scene = Scene::new(std::slice::from_ref(&policy), 4);
        for freeze in 1..=3 {
            scene.server.takes([Lost]);
            assert_eq!(scene.admitted(40).await, 25, "{freeze}, {policy:?}");
            scene.server.takes([Answered]);
            assert_eq!(scene.send().await, Seen::Server);
        }
        assert_eq!(scene.counted(&policy).await, 78);
        assert_eq!(scene.admitted(100).await, 22, "{policy:?}");
        // Nothing is left: the share is spent at most once more.
        for part in [25, 0, 0] {
            scene.server.takes([Lost]);
            assert_eq!(scene.admitted(40).await, part, "{policy:?}");
            scene.server.takes([Answered]);
            assert_eq!(scene.send().await, Seen::Denied);
        }
    }
}

#[tokio::test]
async fn any_faults_admit_no_more_than_the_limit_and_one_share_of_each_policy() {
    let takes = [Answered, Answered, Lost, Lost, Unheard, Refused];
    let charges = [Answered, Lost, Unheard, Refused, Late];
    for mut seed in seeds() {
        let loose = &named("loose", 90)[seed.below(7) as usize];
        let tight = &named("tight", 60)[seed.below(7) as usize];
        let share = 1 + seed.below(5) as u32;
        let cost = 1 + seed.below(3);
        let scene = Scene::costing(&[loose.clone(), tight.clone()], share, cost);
        let mut admitted = 0;
        for _ in 0..300 {
            scene.server.takes([seed.one_of(&takes)]);
            scene.server.charges([seed.one_of(&charges)]);
            admitted += cost * scene.admitted(1 + seed.below(4) as usize).await;
            if seed.below(5) == 0 {
                scene.server.release().await;
            }
            scene.clock.advance(Duration::from_millis(seed.below(20)));
        }
        let most = 60 + 60_u64.div_ceil(share.into());
        assert!(admitted <= most, "{admitted} of {most}, {tight:?}");
    }
}

#[tokio::test]
async fn any_faults_charge_each_request_at_most_once() {
    let takes = [Answered, Lost, Lost, Lost, Unheard, Refused];
    let charges = [Answered, Unheard, Refused, Late];
    for mut seed in seeds() {
        let policy = &every_algorithm(10_000)[seed.below(7) as usize];
        let scene = Scene::new(std::slice::from_ref(policy), 4);
        let mut local = 0;
        for _ in 0..300 {
            scene.server.takes([seed.one_of(&takes)]);
            scene.server.charges([seed.one_of(&charges)]);
            local += u64::from(scene.send().await == Seen::Local);
            if seed.below(5) == 0 {
                scene.server.release().await;
            }
        }
        // At the end all is well, and nothing is left to send.
        scene.server.takes([Answered]);
        scene.server.charges([Answered]);
        scene.admitted(2).await;
        scene.server.release().await;
        let decided = scene.server.decided.load(SeqCst);
        assert_eq!(scene.counted(policy).await, decided + local, "{policy:?}");
    }
}

#[tokio::test]
async fn a_charge_that_was_refused_is_sent_again() {
    let policy = Policy::fixed_window("p", day(100)).unwrap();
    let scene = Scene::new(std::slice::from_ref(&policy), 4);
    scene.server.takes([Lost]);
    assert_eq!(scene.admitted(10).await, 10);
    scene.server.takes([Answered]);
    scene.server.charges([Refused, Refused, Answered]);
    for counted in [1, 2, 13] {
        assert_eq!(scene.send().await, Seen::Server);
        assert_eq!(scene.counted(&policy).await, counted);
    }
}

#[tokio::test]
async fn a_denial_by_the_server_frees_no_local_share() {
    for policy in every_algorithm(100) {
        let scene = Scene::new(std::slice::from_ref(&policy), 4);
        assert_eq!(scene.admitted(100).await, 100);
        for part in [25, 0, 0] {
            scene.server.takes([Lost]);
            assert_eq!(scene.admitted(40).await, part, "{policy:?}");
            scene.server.takes([Answered]);
            assert_eq!(scene.send().await, Seen::Denied);
        }
    }
}

#[tokio::test]
async fn a_charge_acknowledged_after_its_window_frees_nothing_of_the_next() {
    let ten_seconds = Quota::new(8, Duration::from_secs(10));
    let policy = Policy::fixed_window("p", ten_seconds).unwrap();
    let scene = Scene::new(&[policy], 4);
    scene.server.takes([Lost, Lost, Answered, Lost]);
    scene.server.charges([Late]);
    assert_eq!(scene.admitted(4).await, 3);
    scene.clock.advance(Duration::from_secs(10));
    assert_eq!(scene.admitted(4).await, 2);
    scene.server.release().await;
    assert_eq!(scene.admitted(4).await, 0);
    scene.clock.advance(Duration::from_secs(10));
    assert_eq!(scene.admitted(4).await, 2);
}

#[tokio::test]
async fn a_change_of_quota_or_window_during_an_outage_frees_no_local_share() {
    let hour = |limit| Quota::new(limit, Duration::from_secs(3_600));
    type Make = fn(&'static str, Quota) -> Result<Policy, portcullis::ConfigError>;
    let windows: [Make; 4] = [
        |name, quota| Policy::fixed_window(name, quota),
        |name, quota| Policy::aligned_window(name, quota),
        |name, quota| Policy::sliding_window(name, quota),
        |name, quota| Policy::sliding_log(name, quota),
    ];
    for (which, make) in windows.into_iter().enumerate() {
        let scene = Scene::new(&[make("p", day(100)).unwrap()], 4);
        scene.server.charges([Lost]);
        scene.server.takes([Lost]);
        assert_eq!(scene.admitted(40).await, 25);
        for quota in [hour(100), day(100), hour(100)] {
            let policy = make("p", quota).unwrap();
            scene
                .layer
                .handle()
                .replace_policies([policy], None)
                .unwrap();
            scene.server.takes([Lost]);
            assert_eq!(scene.admitted(40).await, 0, "{which}, {quota}");
        }
    }
}

#[tokio::test]
async fn a_reset_frees_the_local_share_too() {
    let scene = Scene::new(&every_algorithm(100)[..1], 4);
    scene.server.takes([Lost]);
    assert_eq!(scene.admitted(40).await, 25);
    let request = as_caller(Request::new(()));
    let reset = scene
        .layer
        .handle()
        .reset(&RequestHead::from(&request))
        .await;
    reset.unwrap();
    assert_eq!(scene.admitted(40).await, 25);
}
