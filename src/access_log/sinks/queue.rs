//! Records on their way to a store, which no request waits for.

use std::{
    fmt,
    future::poll_fn,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::{
    backlog::{Backlog, Bounds},
    encode,
    sink::Sink,
};
use crate::{
    access_log::{
        emit::{losses::Losses, observer::Observer, weight::Weight},
        record::{record::Record, schema::Names},
        store::{LogEntry, LogStore, Trail},
    },
    core::{
        audit::{AuditEvent, Auditor},
        error::{ConfigError, StoreError, StoreErrorKind},
        record::StoreCall,
        runtime::Runtime,
        time::{Clock, SystemClock},
    },
};

/// The longest that a store which is down is left alone.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Hands records to a [`LogStore`] in batches, beside the requests.
///
/// A request pays for encoding and for one push onto a bounded queue. A batch is stored when it is
/// full or when the oldest record has waited long enough; the task that stores ends when nothing is
/// left to do, and the next record starts another.
///
/// When the store is slow or down, what matters least is lost first: requests that went well may
/// take three quarters of the room, and those that failed or were denied seven eighths. What is lost
/// is counted, and the count is stored as an entry `portcullis.log.lost` as soon as the store takes
/// one.
///
/// It is an [`Auditor`] too. Audit events have the last eighth of the room to themselves, a task of
/// their own, so that no record stands in their way, and a trail of their own, in the same store or
/// in [another](LogQueueBuilder::audit_store).
///
/// ```
/// use portcullis::{
///     TokioRuntime,
///     access_log::{AccessLogLayer, LogQueue},
///     store::MemoryStore,
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), portcullis::ConfigError> {
/// let queue = LogQueue::builder(MemoryStore::new(), TokioRuntime).build()?;
/// let layer = AccessLogLayer::new(queue.clone());
/// // Before the process ends: what still waits is stored.
/// queue.flush().await;
/// # let _ = layer;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct LogQueue {
    shared: Arc<Shared>,
}

struct Shared {
    access: Lane,
    audit: Lane,
    /// Whether audit events tell of the records' store: they do where they have another one.
    watches: bool,
    observers: Vec<Arc<dyn Observer>>,
    runtime: Arc<dyn Runtime>,
    clock: Arc<dyn Clock>,
    names: Names,
    batch_max: usize,
    linger: Duration,
    deadline: Duration,
}

/// The way of one trail's entries.
struct Lane {
    trail: Trail,
    store: Arc<dyn LogStore>,
    is_down: AtomicBool,
    state: Mutex<State>,
}

struct State {
    backlog: Backlog,
    /// Losses that an entry in the store tells of.
    told: Losses,
    /// Whether a task is at work, or about to be.
    at_work: bool,
    /// Who is to be woken when a batch is full.
    waker: Option<Waker>,
    /// How many batches are on their way to the store.
    under_way: usize,
    /// Who is to be woken when none is.
    flushing: Vec<Waker>,
}

impl LogQueue {
    /// Begins a queue to this store, whose tasks run on this runtime.
    pub fn builder(store: impl LogStore, runtime: impl Runtime) -> LogQueueBuilder {
        LogQueueBuilder {
            store: Arc::new(store),
            audit_store: None,
            observers: Vec::new(),
            runtime: Arc::new(runtime),
            clock: None,
            names: Names::default(),
            bounds: Bounds {
                entries_max: 8_192,
                bytes_max: 8 << 20,
            },
            batch_max: 512,
            linger: Duration::from_secs(1),
            deadline: Duration::from_secs(5),
        }
    }

    /// Returns how many records and events wait to be stored.
    pub fn waiting(&self) -> usize {
        self.shared.access.waiting() + self.shared.audit.waiting()
    }

    /// Returns how many entries of this trail were lost so far, and why.
    pub fn losses(&self, trail: Trail) -> Losses {
        self.shared.lane(trail).state().backlog.losses()
    }

    /// Stores an audit event now, and returns once the store has it: for what may not be lost
    /// unseen, such as the revocation of a key.
    ///
    /// # Errors
    ///
    /// If the store failed, or did not answer in time.
    pub async fn audit_now(&self, event: &AuditEvent) -> Result<(), StoreError> {
        let entry = self.shared.audited(event);
        self.shared.append(&self.shared.audit, &[entry]).await
    }

    /// Stores all that waits, unless a store fails, and waits for what is on its way: for the end of
    /// the process.
    ///
    /// Returns whether nothing is left waiting.
    pub async fn flush(&self) -> bool {
        let shared = &self.shared;
        let audit = shared.deliver(&shared.audit).await;
        let access = shared.deliver(&shared.access).await;
        for lane in [&shared.audit, &shared.access] {
            poll_fn(|cx| lane.poll_idle(cx)).await;
        }
        audit.is_ok() && access.is_ok() && self.waiting() == 0
    }

    fn offer(&self, weight: Weight, entry: LogEntry) {
        let trail = match weight {
            Weight::Routine | Weight::Important => Trail::Access,
            Weight::Audit => Trail::Audit,
        };
        Shared::offer(&self.shared, trail, weight, entry);
    }
}

impl Sink for LogQueue {
    fn write(&self, record: &Record<'_>) {
        let entry = record.with_json_line(self.shared.names, |line| {
            let json = bytes::Bytes::copy_from_slice(line.trim_ascii_end());
            LogEntry::new(record.arrived_at(), json)
        });
        self.offer(Weight::of(record), entry);
    }

    fn losses(&self) -> Losses {
        Self::losses(self, Trail::Access)
    }
}

impl Auditor for LogQueue {
    fn audit(&self, event: &AuditEvent) {
        self.shared
            .each_observer(|observer| observer.audited(event));
        self.offer(Weight::Audit, self.shared.audited(event));
    }

    fn lost(&self) -> u64 {
        self.losses(Trail::Audit).total()
    }
}

impl fmt::Debug for LogQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogQueue")
            .field("waiting", &self.waiting())
            .field("losses", &self.losses(Trail::Access))
            .field("audit_losses", &self.losses(Trail::Audit))
            .finish_non_exhaustive()
    }
}

/// Says that a task is at work, until it ends, is dropped or panics: then the next entry starts
/// another.
struct AtWork {
    shared: Arc<Shared>,
    trail: Trail,
    ended: bool,
}

impl AtWork {
    /// Stores what waits until nothing does. After a failure it pauses, longer each time.
    async fn run(mut self) {
        let mut pause = None;
        while !self.has_ended() {
            let lane = self.shared.lane(self.trail);
            self.shared.linger(lane, pause).await;
            let last = pause.unwrap_or(self.shared.linger);
            pause = match self.shared.deliver(lane).await {
                Ok(()) => None,
                Err(Down) => Some((last * 2).min(PAUSE_MAX)),
            };
        }
    }

    /// Ends the work if nothing waits: in one step, so that no entry is left without a task.
    fn has_ended(&mut self) -> bool {
        let mut state = self.shared.lane(self.trail).state();
        if state.backlog.waiting() == 0 {
            state.at_work = false;
            self.ended = true;
        }
        self.ended
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        if !self.ended {
            self.shared.lane(self.trail).state().at_work = false;
        }
    }
}

/// The store did not take a batch: to be left alone for a while.
struct Down;

impl Lane {
    fn new(trail: Trail, store: Arc<dyn LogStore>, bounds: Bounds) -> Self {
        Self {
            trail,
            store,
            is_down: AtomicBool::new(false),
            state: Mutex::new(State {
                backlog: Backlog::new(bounds),
                told: Losses::default(),
                at_work: false,
                waker: None,
                under_way: 0,
                flushing: Vec::new(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held, but for want of memory.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> usize {
        self.state().backlog.waiting()
    }

    /// Waits until no batch is on its way to the store.
    fn poll_idle(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.under_way == 0 {
            return Poll::Ready(());
        }
        if !state
            .flushing
            .iter()
            .any(|waker| waker.will_wake(cx.waker()))
        {
            state.flushing.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Shared {
    fn lane(&self, trail: Trail) -> &Lane {
        match trail {
            Trail::Access => &self.access,
            Trail::Audit => &self.audit,
        }
    }

    fn offer(shared: &Arc<Self>, trail: Trail, weight: Weight, entry: LogEntry) {
        let mut state = shared.lane(trail).state();
        state.backlog.offer(weight, entry);
        let due = state.backlog.waiting() >= shared.batch_max;
        let waker = if due { state.waker.take() } else { None };
        // Notices are audit events that come from any thread, such as that of a writer: outside of the
        // runtime they wait for the next event or for a flush.
        let can_start = match trail {
            Trail::Access => true,
            Trail::Audit => shared.runtime.can_spawn(),
        };
        let starts = can_start && !state.at_work;
        state.at_work |= starts;
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        if starts {
            let work = AtWork {
                shared: Arc::clone(shared),
                trail,
                ended: false,
            };
            shared.runtime.spawn(Box::pin(work.run()));
        }
    }

    fn audited(&self, event: &AuditEvent) -> LogEntry {
        let at = self.clock.wall();
        LogEntry::new(at, encode::audit(self.names, at, event))
    }

    /// Waits until a batch is full or the oldest entry has waited long enough; after a failure,
    /// until the pause is over.
    async fn linger(&self, lane: &Lane, pause: Option<Duration>) {
        let mut sleep = self.runtime.sleep(pause.unwrap_or(self.linger));
        poll_fn(|cx| {
            if pause.is_none() {
                let mut state = lane.state();
                if state.backlog.waiting() >= self.batch_max {
                    return Poll::Ready(());
                }
                state.waker = Some(cx.waker().clone());
            }
            sleep.as_mut().poll(cx)
        })
        .await;
    }

    /// Stores what waits, and tells the store of losses.
    async fn deliver(self: &Arc<Self>, lane: &Lane) -> Result<(), Down> {
        while let Some(batch) = UnderWay::take(lane, self.batch_max) {
            let answer = self.append(lane, batch.entries()).await;
            self.note(lane, &answer);
            batch.end(answer)?;
        }
        self.tell_losses(lane).await
    }

    /// Appends to the lane's store, but does not wait for its answer for ever.
    async fn append(&self, lane: &Lane, entries: &[LogEntry]) -> Result<(), StoreError> {
        let mut pending = match lane.store.append(lane.trail, entries).into_ready() {
            Ok(answer) => {
                self.observe(lane, None, &answer);
                return answer;
            }
            Err(pending) => pending,
        };
        let asked_at = self.clock.now();
        let mut sleep = self.runtime.sleep(self.deadline);
        let answer = poll_fn(|cx| match pending.as_mut().poll(cx) {
            Poll::Ready(answer) => Poll::Ready(answer),
            Poll::Pending => sleep
                .as_mut()
                .poll(cx)
                .map(|()| Err(StoreErrorKind::Timeout.into())),
        })
        .await;
        self.observe(lane, Some(self.clock.now() - asked_at), &answer);
        answer
    }

    /// Tells the observers how a store answered, and after how long if that was waited for.
    fn observe(&self, lane: &Lane, waited: Option<Duration>, answer: &Result<(), StoreError>) {
        let layer = match lane.trail {
            Trail::Access => "access_log",
            Trail::Audit => "audit",
        };
        let call = StoreCall::new(layer, waited, answer.as_ref().err().map(StoreError::kind));
        self.each_observer(|observer| observer.stored(&call));
    }

    /// Tells each observer. One that panics costs nothing else.
    fn each_observer(&self, tell: impl Fn(&dyn Observer)) {
        for observer in &self.observers {
            let _ = catch_unwind(AssertUnwindSafe(|| tell(&**observer)));
        }
    }

    /// Makes an audit event of it when the records' store stops answering, and when it answers again.
    fn note(self: &Arc<Self>, lane: &Lane, answer: &Result<(), StoreError>) {
        if !self.watches || lane.trail != Trail::Access {
            return;
        }
        let store = Arc::from("access_log");
        let was_down = lane.is_down.swap(answer.is_err(), Ordering::Relaxed);
        let event = match answer {
            Ok(()) if was_down => AuditEvent::StoreUp { store },
            Err(error) if !was_down => AuditEvent::StoreDown {
                store,
                kind: error.kind(),
            },
            Ok(()) | Err(_) => return,
        };
        Self::offer(self, Trail::Audit, Weight::Audit, self.audited(&event));
    }

    /// Stores how many entries were lost since that was last told.
    async fn tell_losses(&self, lane: &Lane) -> Result<(), Down> {
        let (losses, told) = {
            let state = lane.state();
            (state.backlog.losses(), state.told)
        };
        let news = losses - told;
        let at = self.clock.wall();
        let entries: Vec<_> = news
            .each()
            .filter(|(_, lost)| *lost > 0)
            .map(|(reason, lost)| LogEntry::new(at, encode::loss(self.names, at, reason, lost)))
            .collect();
        if entries.is_empty() {
            return Ok(());
        }
        match self.append(lane, &entries).await {
            Ok(()) => {
                lane.state().told = losses;
                Ok(())
            }
            Err(_) => Err(Down),
        }
    }
}

/// A batch that is being stored. One whose fate is never learned is lost: it is not sent twice.
struct UnderWay<'a> {
    lane: &'a Lane,
    batch: Option<Vec<LogEntry>>,
}

impl<'a> UnderWay<'a> {
    fn take(lane: &'a Lane, batch_max: usize) -> Option<Self> {
        let mut state = lane.state();
        let batch = Some(state.backlog.take(batch_max)?);
        state.under_way += 1;
        Some(Self { lane, batch })
    }

    fn entries(&self) -> &[LogEntry] {
        self.batch.as_ref().expect("a batch ends once")
    }

    fn end(mut self, answer: Result<(), StoreError>) -> Result<(), Down> {
        let batch = self.batch.take().expect("a batch ends once");
        let backlog = &mut self.lane.state().backlog;
        match answer.map_err(|error| error.kind()) {
            Ok(()) => {
                backlog.stored(&batch);
                return Ok(());
            }
            // Nothing was done: the batch may be tried again.
            Err(kind) if kind.is_undone() => backlog.put_back(batch),
            Err(_) => backlog.lost(&batch),
        }
        Err(Down)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut state = self.lane.state();
        if let Some(batch) = self.batch.take() {
            state.backlog.lost(&batch);
        }
        state.under_way -= 1;
        if state.under_way == 0 {
            let flushing = mem::take(&mut state.flushing);
            drop(state);
            flushing.into_iter().for_each(Waker::wake);
        }
    }
}

/// Builds a [`LogQueue`].
#[must_use]
pub struct LogQueueBuilder {
    store: Arc<dyn LogStore>,
    audit_store: Option<Arc<dyn LogStore>>,
    observers: Vec<Arc<dyn Observer>>,
    runtime: Arc<dyn Runtime>,
    clock: Option<Arc<dyn Clock>>,
    names: Names,
    bounds: Bounds,
    batch_max: usize,
    linger: Duration,
    deadline: Duration,
}

impl LogQueueBuilder {
    /// Keeps audit events in a store of their own. In the same store as the records by default, in a
    /// trail of their own.
    ///
    /// They then also tell when the records' store stops answering, and when it answers again.
    pub fn audit_store(mut self, store: impl LogStore) -> Self {
        self.audit_store = Some(Arc::new(store));
        self
    }

    /// Adds who is told how the stores answer, and how long they take: `Metrics` (feature
    /// `metrics`), say.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observers.push(Arc::new(observer));
        self
    }

    /// Sets how many records may wait. 8 192 by default.
    pub fn records_max(mut self, records: usize) -> Self {
        self.bounds.entries_max = records;
        self
    }

    /// Sets how many bytes of records may wait. 8 MiB by default.
    pub fn bytes_max(mut self, bytes: usize) -> Self {
        self.bounds.bytes_max = bytes;
        self
    }

    /// Sets how many records are stored by one call. 512 by default.
    pub fn batch_max(mut self, records: usize) -> Self {
        self.batch_max = records;
        self
    }

    /// Sets how long a record waits for others to be stored with. 1 s by default.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// Sets how long the store has to take a batch. 5 s by default; then the batch is lost.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets by whose convention the fields are named: OpenTelemetry's by default.
    pub fn names(mut self, names: Names) -> Self {
        self.names = names;
        self
    }

    /// Sets the clock that dates what the queue itself has to tell. The machine's by default.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Returns the queue.
    ///
    /// # Errors
    ///
    /// If the queue has no room for eight records, or a batch none for one.
    pub fn build(self) -> Result<LogQueue, ConfigError> {
        let problem = "a queue of no room loses each record";
        if self.bounds.entries_max < 8 {
            return Err(
                ConfigError::new("records_max", self.bounds.entries_max, problem)
                    .fix("give at least 8, or leave the default"),
            );
        }
        if self.bounds.bytes_max < 64 << 10 {
            return Err(
                ConfigError::new("bytes_max", self.bounds.bytes_max, problem)
                    .fix("give at least 65536, or leave the default"),
            );
        }
        if self.batch_max == 0 {
            return Err(
                ConfigError::new("batch_max", 0, "an empty batch stores nothing")
                    .fix("give at least 1, or leave the default"),
            );
        }
        let watches = self.audit_store.is_some();
        let audit_store = self.audit_store.unwrap_or_else(|| Arc::clone(&self.store));
        Ok(LogQueue {
            shared: Arc::new(Shared {
                access: Lane::new(Trail::Access, self.store, self.bounds),
                audit: Lane::new(Trail::Audit, audit_store, self.bounds),
                watches,
                observers: self.observers,
                runtime: self.runtime,
                clock: self.clock.unwrap_or_else(|| Arc::new(SystemClock::new())),
                names: self.names,
                batch_max: self.batch_max,
                linger: self.linger,
                deadline: self.deadline,
            }),
        })
    }
}

impl fmt::Debug for LogQueueBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogQueueBuilder")
            .field("bounds", &self.bounds)
            .finish_non_exhaustive()
    }
}
