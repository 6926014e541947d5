//! Delivery of queued records to a store that is fast, slow, failing, or never replies.

use std::{
    convert::Infallible,
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use portcullis::{
    AuditEvent, Auditor, KeyAction, ManualClock, Runtime, StoreError, StoreErrorKind, StoreFuture,
    Task, TokioRuntime,
    access_log::{
        AccessLogLayer, LogQuery, LogStore, LogStream,
        record::LogEntry,
        sinks::{LogQueue, LogQueueBuilder},
    },
    outcome::{AuthDenial, AuthOutcome, RecordHandle},
    store::MemoryStore,
};
use serde_json::Value;
use tokio::sync::Semaphore;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::support::get;

/// A runtime whose sleepers wake when the test triggers them.
#[derive(Clone, Debug)]
struct Sleepers {
    wake: Arc<Semaphore>,
    asleep: Arc<Mutex<Vec<Duration>>>,
    tasks: Arc<AtomicUsize>,
}

impl Sleepers {
    fn new() -> Self {
        Self {
            wake: Arc::new(Semaphore::new(0)),
            asleep: Arc::default(),
            tasks: Arc::default(),
        }
    }

    /// Wakes one sleeper, and runs all tasks until none can make progress.
    async fn tick(&self) {
        self.wake.add_permits(1);
        settle().await;
    }

    /// Returns the durations of all sleeps requested until now, in order.
    fn slept(&self) -> Vec<Duration> {
        self.asleep.lock().unwrap().clone()
    }

    fn tasks(&self) -> usize {
        self.tasks.load(Ordering::SeqCst)
    }
}

impl Runtime for Sleepers {
    fn spawn(&self, task: Task) {
        self.tasks.fetch_add(1, Ordering::SeqCst);
        TokioRuntime.spawn(task);
    }

    fn sleep(&self, duration: Duration) -> Task {
        self.asleep.lock().unwrap().push(duration);
        let wake = Arc::clone(&self.wake);
        Box::pin(async move { wake.acquire().await.unwrap().forget() })
    }
}

/// Lets all tasks of a runtime of one thread run until they wait.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

/// A store with scripted results that remembers the records it took.
#[derive(Clone, Default)]
struct Moody {
    taken: Arc<Mutex<Vec<Vec<Value>>>>,
    mood: Arc<Mutex<Mood>>,
}

#[derive(Clone, Copy, Default)]
enum Mood {
    #[default]
    Fine,
    Fails(StoreErrorKind),
    NeverAnswers,
}

impl Moody {
    fn is(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn batches(&self) -> Vec<Vec<Value>> {
        self.taken.lock().unwrap().clone()
    }

    fn paths(&self) -> Vec<String> {
        let batches = self.batches();
        let paths = batches.iter().flatten();
        paths
            .filter_map(|entry| entry["url.path"].as_str().map(str::to_owned))
            .collect()
    }
}

impl LogStore for Moody {
    fn append(&self, _: LogStream, batch: &[LogEntry]) -> StoreFuture<()> {
        match *self.mood.lock().unwrap() {
            Mood::Fine => {
                let parse = |entry: &LogEntry| serde_json::from_slice(&entry.json).unwrap();
                let batch = batch.iter().map(parse).collect();
                self.taken.lock().unwrap().push(batch);
                StoreFuture::ready(())
            }
            Mood::Fails(kind) => {
                StoreFuture::pending(async move { Err::<(), StoreError>(kind.into()) })
            }
            Mood::NeverAnswers => StoreFuture::pending(pending()),
        }
    }

    fn recent(&self, _: LogStream, _: &LogQuery) -> StoreFuture<Vec<LogEntry>> {
        StoreFuture::ready(Vec::new())
    }
}

struct Set {
    store: Moody,
    sleepers: Sleepers,
    queue: LogQueue,
    layer: AccessLogLayer,
}

fn set(told: impl FnOnce(LogQueueBuilder) -> LogQueueBuilder) -> Set {
    let (store, sleepers) = (Moody::default(), Sleepers::new());
    let builder = LogQueue::builder(store.clone(), sleepers.clone()).clock(ManualClock::default());
    let queue = told(builder).build().unwrap();
    let layer = AccessLogLayer::new(queue.clone());
    Set {
        store,
        sleepers,
        queue,
        layer,
    }
}

impl Set {
    async fn ask(&self, path: &str) {
        self.app().oneshot(get(path)).await.unwrap();
    }

    fn app(
        &self,
    ) -> impl Service<Request<Full<Bytes>>, Response: Sized, Error = Infallible, Future: Send> {
        self.layer
            .layer(service_fn(async |request: Request<Full<Bytes>>| {
                let mut response = Response::new(Full::<Bytes>::default());
                if request.uri().path().starts_with("/fail") {
                    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                }
                Ok::<_, Infallible>(response)
            }))
    }
}

#[tokio::test]
async fn records_are_stored_together_when_the_first_has_waited_long_enough() {
    let set = set(|queue| queue.flush_interval(Duration::from_millis(250)));
    set.ask("/1").await;
    set.ask("/2").await;
    settle().await;
    assert!(set.store.batches().is_empty());
    assert_eq!(set.queue.pending(), 2);
    set.sleepers.tick().await;
    assert_eq!(set.store.batches().len(), 1);
    assert_eq!(set.store.paths(), ["/1", "/2"]);
    assert_eq!(set.queue.pending(), 0);
    assert_eq!(set.sleepers.slept(), [Duration::from_millis(250)]);
}

#[tokio::test]
async fn a_full_batch_does_not_wait() {
    let set = set(|queue| queue.max_batch(2));
    for path in ["/1", "/2"] {
        set.ask(path).await;
    }
    settle().await;
    assert_eq!(set.store.paths(), ["/1", "/2"]);
}

#[tokio::test]
async fn a_batch_that_fills_while_its_task_waits_wakes_it() {
    let set = set(|queue| queue.max_batch(2));
    set.ask("/1").await;
    settle().await;
    assert!(set.store.batches().is_empty());
    set.ask("/2").await;
    settle().await;
    assert_eq!(set.store.paths(), ["/1", "/2"]);
}

#[tokio::test]
async fn the_task_ends_when_nothing_waits_and_the_next_record_starts_another() {
    let set = set(|queue| queue);
    set.ask("/1").await;
    set.ask("/2").await;
    set.sleepers.tick().await;
    assert_eq!(set.sleepers.tasks(), 1);
    set.ask("/3").await;
    set.sleepers.tick().await;
    assert_eq!(set.sleepers.tasks(), 2);
    assert_eq!(set.store.paths(), ["/1", "/2", "/3"]);
}

#[tokio::test]
async fn a_store_that_is_down_is_left_alone_longer_each_time_and_then_gets_all_of_it() {
    let set = set(|queue| queue);
    set.store.is(Mood::Fails(StoreErrorKind::Unavailable));
    set.ask("/1").await;
    for _ in 0..6 {
        set.sleepers.tick().await;
    }
    let seconds: Vec<_> = set.sleepers.slept().iter().map(Duration::as_secs).collect();
    // Each attempt that has to wait has a timeout of 5 s too, which is filtered out here.
    let pauses: Vec<_> = seconds.into_iter().filter(|secs| *secs != 5).collect();
    assert!(pauses.starts_with(&[1, 2, 4, 8, 10]), "{pauses:?}");
    set.store.is(Mood::Fine);
    set.ask("/2").await;
    for _ in 0..3 {
        set.sleepers.tick().await;
    }
    assert_eq!(set.store.paths(), ["/1", "/2"]);
    assert_eq!(set.queue.drop_counts(LogStream::Access).total(), 0);
}

#[tokio::test]
async fn rejected_batch_is_dropped_and_the_loss_is_logged() {
    let set = set(|queue| queue);
    set.store.is(Mood::Fails(StoreErrorKind::Corrupt));
    set.ask("/lost").await;
    set.sleepers.tick().await;
    assert_eq!(set.queue.drop_counts(LogStream::Access).store_failed, 1);
    set.store.is(Mood::Fine);
    set.ask("/kept").await;
    for _ in 0..3 {
        set.sleepers.tick().await;
    }
    assert_eq!(set.store.paths(), ["/kept"]);
    let batches = set.store.batches();
    let told = &batches.last().unwrap()[0];
    assert_eq!(told["event.name"], "portcullis.log.lost");
    assert_eq!(told["portcullis.log.lost"], 1);
    assert_eq!(told["error.type"], "store_failed");
    assert_eq!(told["timestamp"], "2026-01-01T00:00:00.000000Z");
    assert_eq!(batches.len(), 2, "a loss is reported once");
}

#[tokio::test]
async fn a_store_that_never_answers_costs_its_batch_and_no_request() {
    let set = set(|queue| queue);
    set.store.is(Mood::NeverAnswers);
    set.ask("/lost").await;
    set.sleepers.tick().await;
    set.ask("/later").await;
    assert_eq!(
        set.queue.drop_counts(LogStream::Access).total(),
        0,
        "the deadline is not over"
    );
    set.sleepers.tick().await;
    assert_eq!(set.queue.drop_counts(LogStream::Access).store_failed, 1);
    set.store.is(Mood::Fine);
    set.sleepers.tick().await;
    assert_eq!(set.store.paths(), ["/later"]);
}

#[tokio::test]
async fn a_full_queue_loses_what_went_well_first_and_counts_exactly() {
    let set = set(|queue| queue.max_queued_records(16));
    set.store.is(Mood::NeverAnswers);
    for number in 0..100 {
        set.ask(&format!("/{number}")).await;
    }
    assert_eq!(
        (
            set.queue.pending(),
            set.queue.drop_counts(LogStream::Access).queue_full
        ),
        (12, 88)
    );
    set.ask("/fail").await;
    assert_eq!(
        (
            set.queue.pending(),
            set.queue.drop_counts(LogStream::Access).queue_full
        ),
        (13, 88)
    );
    set.store.is(Mood::Fine);
    assert!(set.queue.flush().await);
    assert_eq!(set.store.paths().last().unwrap(), "/fail");
    let batches = set.store.batches();
    let told = &batches.last().unwrap()[0];
    assert_eq!(
        (&told["portcullis.log.lost"], &told["error.type"]),
        (&88.into(), &"queue_full".into())
    );
}

#[tokio::test]
async fn flush_stores_all_waiting_records_or_returns_false() {
    let set = set(|queue| queue);
    set.ask("/1").await;
    set.store.is(Mood::Fails(StoreErrorKind::Unavailable));
    assert!(!set.queue.flush().await);
    set.store.is(Mood::Fine);
    assert!(set.queue.flush().await);
    assert_eq!(set.store.paths(), ["/1"]);
}

#[tokio::test]
async fn a_flush_waits_for_what_is_on_its_way_to_the_store_already() {
    let set = set(|queue| queue);
    set.store.is(Mood::NeverAnswers);
    set.ask("/1").await;
    set.sleepers.tick().await;
    assert_eq!(set.queue.pending(), 0, "a task has taken it");
    let flush = tokio::spawn({
        let queue = set.queue.clone();
        async move { queue.flush().await }
    });
    settle().await;
    assert!(!flush.is_finished());
    // The deadline of the batch is over.
    set.sleepers.tick().await;
    assert!(flush.await.unwrap());
    assert_eq!(set.queue.drop_counts(LogStream::Access).store_failed, 1);
}

#[tokio::test]
async fn a_flush_that_is_given_up_counts_its_batch_as_lost() {
    let set = set(|queue| queue);
    set.ask("/1").await;
    set.store.is(Mood::NeverAnswers);
    {
        let flush = set.queue.flush();
        let mut flush = std::pin::pin!(flush);
        let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(flush.as_mut().poll(cx)));
        assert!(polled.await.is_pending());
    }
    assert_eq!(set.queue.drop_counts(LogStream::Access).store_failed, 1);
}

#[tokio::test]
async fn records_in_a_store_can_be_read_again() {
    let store = MemoryStore::new();
    let queue = LogQueue::builder(store.clone(), TokioRuntime)
        .build()
        .unwrap();
    let app =
        AccessLogLayer::new(queue.clone()).layer(service_fn(async |_: Request<Full<Bytes>>| {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }));
    for path in ["/1", "/2"] {
        app.clone().oneshot(get(path)).await.unwrap();
    }
    assert!(queue.flush().await);
    let latest = store
        .recent(LogStream::Access, &LogQuery::latest(1))
        .await
        .unwrap();
    let latest: Value = serde_json::from_slice(&latest[0].json).unwrap();
    assert_eq!(latest["url.path"], "/2");
}

#[test]
fn a_queue_without_room_is_not_built() {
    let builder = || LogQueue::builder(MemoryStore::new(), TokioRuntime);
    let option = |builder: LogQueueBuilder| builder.build().unwrap_err().option();
    assert_eq!(
        option(builder().max_queued_records(7)),
        "max_queued_records"
    );
    assert_eq!(
        option(builder().max_queued_bytes(1_000)),
        "max_queued_bytes"
    );
    assert_eq!(option(builder().max_batch(0)), "max_batch");
}

#[tokio::test]
async fn audit_events_go_to_a_trail_of_their_own_and_denials_are_among_them() {
    let store = MemoryStore::new();
    let queue = LogQueue::builder(store.clone(), TokioRuntime)
        .build()
        .unwrap();
    let layer = AccessLogLayer::builder()
        .sink(queue.clone())
        .auditor(queue.clone())
        .build()
        .unwrap();
    let app = layer.layer(service_fn(async |request: Request<Full<Bytes>>| {
        let record = RecordHandle::from_extensions(request.extensions()).unwrap();
        record.set_auth(AuthOutcome::Denied {
            reason: AuthDenial::Expired,
            key_id: Some("key_7".into()),
        });
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    app.oneshot(get("/")).await.unwrap();
    queue.audit(&AuditEvent::StoreUp {
        store: "keys".into(),
    });
    let revoked = AuditEvent::KeyChanged {
        action: KeyAction::Revoked,
        key_id: "key_7".into(),
        by: Some("alice".into()),
    };
    queue.audit_now(&revoked).await.unwrap();
    assert!(queue.flush().await);
    let audit = store
        .recent(LogStream::Audit, &LogQuery::default())
        .await
        .unwrap();
    let audit: Vec<Value> = audit
        .iter()
        .map(|entry| serde_json::from_slice(&entry.json).unwrap())
        .collect();
    let names: Vec<_> = audit
        .iter()
        .map(|event| event["event.name"].as_str().unwrap())
        .collect();
    // The revocation did not wait; the latest event is listed first.
    assert_eq!(
        names,
        [
            "portcullis.audit.store_up",
            "portcullis.audit.auth_denied",
            "portcullis.audit.key_revoked"
        ]
    );
    assert_eq!(audit[1]["portcullis.auth.reason"], "expired");
    assert_eq!(audit[1]["portcullis.auth.key_id"], "key_7");
    assert_eq!(audit[2]["portcullis.audit.by"], "alice");
    let access = store
        .recent(LogStream::Access, &LogQuery::default())
        .await
        .unwrap();
    assert_eq!(access.len(), 1);
}

#[tokio::test]
async fn a_flood_of_requests_takes_no_room_from_audit_events() {
    let set = set(|queue| queue.max_queued_records(16));
    for number in 0..100 {
        set.ask(&format!("/fail/{number}")).await;
    }
    assert_eq!(set.queue.pending(), 14);
    set.queue.audit(&AuditEvent::ConfigWarning {
        message: "two\nlines".into(),
    });
    assert!(set.queue.flush().await);
    let first = &set.store.batches()[0][0];
    assert_eq!(first["event.name"], "portcullis.audit.config_warning");
    assert_eq!(first["portcullis.audit.message"], "two\nlines");
}

#[tokio::test]
async fn an_audit_event_that_may_not_be_lost_is_an_error_if_it_is() {
    let set = set(|queue| queue);
    set.store.is(Mood::Fails(StoreErrorKind::Full));
    let event = AuditEvent::StoreUp {
        store: "keys".into(),
    };
    let error = set.queue.audit_now(&event).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Full);
}

fn store_is_up() -> AuditEvent {
    AuditEvent::StoreUp {
        store: "keys".into(),
    }
}

fn names(store: &Moody) -> Vec<String> {
    let batches = store.batches();
    let names = batches.iter().flatten().map(|entry| &entry["event.name"]);
    names
        .map(|name| name.as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn audit_events_have_a_store_of_their_own_if_they_are_given_one() {
    let trail = Moody::default();
    let set = set(|queue| queue.audit_store(trail.clone()));
    // The records' store hangs, and holds up no audit event.
    set.store.is(Mood::NeverAnswers);
    set.ask("/1").await;
    set.sleepers.tick().await;
    set.queue.audit(&store_is_up());
    set.sleepers.wake.add_permits(8);
    settle().await;
    assert_eq!(names(&trail)[0], "portcullis.audit.store_up");
    assert!(set.store.batches().is_empty());
}

#[tokio::test]
async fn audit_store_receives_each_state_change_of_the_log_store_once() {
    let trail = Moody::default();
    let set = set(|queue| queue.audit_store(trail.clone()));
    for round in 1..=2 {
        set.store.is(Mood::Fails(StoreErrorKind::Unavailable));
        set.ask("/1").await;
        for _ in 0..3 {
            assert!(!set.queue.flush().await);
        }
        set.store.is(Mood::Fine);
        for _ in 0..3 {
            assert!(set.queue.flush().await || set.queue.flush().await);
        }
        let down_and_up = ["portcullis.audit.store_down", "portcullis.audit.store_up"];
        assert_eq!(names(&trail), down_and_up.repeat(round));
    }
    let told = &trail.batches()[0][0];
    assert_eq!(told["portcullis.audit.store"], "access_log");
}

#[tokio::test]
async fn lost_audit_events_are_counted_and_reported_in_the_audit_store() {
    let trail = Moody::default();
    let set = set(|queue| queue.max_queued_records(16).audit_store(trail.clone()));
    trail.is(Mood::NeverAnswers);
    (0..5).for_each(|_| set.queue.audit(&store_is_up()));
    assert_eq!(set.queue.drop_counts(LogStream::Audit).queue_full, 3);
    assert_eq!(set.queue.drop_counts(LogStream::Access).total(), 0);
    assert_eq!(set.queue.lost(), 3);
    trail.is(Mood::Fine);
    assert!(set.queue.flush().await);
    let told = trail.batches().pop().unwrap().pop().unwrap();
    assert_eq!(told["event.name"], "portcullis.log.lost");
    assert_eq!(told["portcullis.log.lost"], 3);
    assert!(set.store.batches().is_empty());
}

#[tokio::test]
async fn events_from_outside_of_the_runtime_wait_for_the_next_one_or_a_flush() {
    let event = |store: &str| AuditEvent::StoreUp {
        store: store.into(),
    };
    let store = MemoryStore::new();
    let queue = LogQueue::builder(store.clone(), TokioRuntime)
        .build()
        .unwrap();
    let audit_outside = |event: AuditEvent| {
        let auditor = queue.clone();
        // As the thread of a writer that fails.
        let thread = std::thread::spawn(move || auditor.audit(&event));
        thread.join().unwrap();
    };
    let count = async || {
        let stored = store.recent(LogStream::Audit, &LogQuery::latest(10)).await;
        stored.unwrap().len()
    };
    audit_outside(event("first"));
    assert_eq!(queue.pending(), 1, "it is not lost, and nothing panics");
    assert!(queue.flush().await);
    assert_eq!(count().await, 1);
    audit_outside(event("second"));
    queue.audit(&event("third"));
    while count().await < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
