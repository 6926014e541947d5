//! A single server, with its connection and its availability.

use std::{
    fmt,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use redis::aio::MultiplexedConnection;
use tokio::sync::{Notify, oneshot};

use super::{
    breaker::Pulse,
    driver::{Driver, Replies},
    error::{Fault, reply_of},
    ground::{Ground, within},
    stats::Outage,
};
use crate::{
    core::{
        error::{StoreError, StoreErrorKind},
        time::{Clock, Timestamp},
    },
    store::redis::{config::credentials::RedisCredentials, topology::endpoint::Endpoint},
};

/// The timeout for an attempt to connect. Calls wait for no longer than their own timeouts.
const ATTEMPT_MAX: Duration = Duration::from_secs(1);

/// The minimum interval between the starts of two attempts.
const ATTEMPT_INTERVAL: Duration = Duration::from_secs(1);

/// The number of round trips that opening a connection takes: TCP, `HELLO` and a write.
const CONNECT_TRIPS: u32 = 3;

/// The maximum jitter of the interval. Jitter prevents instances from connecting at the same time.
const JITTER_MAX_MICROS: u64 = 100_000;

/// A server to which calls are sent while it is available.
///
/// ```text
/// Idle ─first call─> Waiting ─connected─> Up ─connection lost─> Waiting
///                       │ not connected     │ silent, failing
///                       └──────> Down <─────┘     Down ─connected─> Up
/// ```
///
/// While the server is unavailable, calls fail immediately, and a background task tries to connect
/// once per second. A call waits for a connection for no longer than the call's own timeout, and
/// never opens a connection itself.
pub(crate) struct Node {
    pub(super) endpoint: Endpoint,
    pub(super) ground: Arc<Ground>,
    state: Mutex<NodeState>,
    /// Notified when the phase changes.
    changed: Notify,
    /// Notified when no more calls are waiting.
    pub(super) drained: Notify,
    /// Called when the server becomes unavailable.
    on_down: Option<Box<dyn Fn() + Send + Sync>>,
}

pub(super) struct NodeState {
    pub(super) phase: NodePhase,
    pub(super) pulse: Pulse,
    /// The number of replies that the pulse has already taken into account.
    replies: u64,
    generation: u64,
    /// Alive while the connecting task runs. If the task's runtime has ended, the task is replaced.
    pub(super) attempts: Weak<()>,
    attempted_at: Option<Timestamp>,
    is_told_down: bool,
}

pub(super) enum NodePhase {
    Idle,
    Waiting,
    Up(LiveConnection),
    /// Calls fail immediately with this kind.
    Down(StoreErrorKind),
    Closed,
}

impl NodePhase {
    /// Returns the error of a call that is not sent in this phase.
    pub(super) fn refused(&self) -> Option<StoreErrorKind> {
        match self {
            Self::Idle | Self::Waiting | Self::Up(_) => None,
            Self::Down(kind) => Some(*kind),
            Self::Closed => Some(StoreErrorKind::Unavailable),
        }
    }
}

/// A connection. Dropping this value closes the connection and wakes all calls that wait on it.
pub(super) struct LiveConnection {
    connection: MultiplexedConnection,
    replies: Replies,
    _stop: oneshot::Sender<()>,
}

impl Node {
    pub(crate) fn new(
        endpoint: Endpoint,
        ground: Arc<Ground>,
        on_down: Option<Box<dyn Fn() + Send + Sync>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            endpoint,
            ground,
            state: Mutex::new(NodeState {
                phase: NodePhase::Idle,
                pulse: Pulse::default(),
                replies: 0,
                generation: 0,
                attempts: Weak::new(),
                attempted_at: None,
                is_told_down: false,
            }),
            changed: Notify::new(),
            drained: Notify::new(),
            on_down,
        })
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(crate) fn is_up(&self) -> bool {
        matches!(self.lock().phase, NodePhase::Up(_))
    }

    /// Returns the remaining time that a call that started at `begun` may wait.
    pub(crate) fn patience(&self, now: Timestamp, begun: Timestamp, timeout: Duration) -> Duration {
        let mut state = self.lock();
        state.listen(now);
        match state.phase {
            NodePhase::Up(_) => {
                let idle_timeout = self.ground.idle_timeout;
                state.pulse.patience(now, begun, timeout, idle_timeout)
            }
            // The attempt to connect decides.
            NodePhase::Idle | NodePhase::Waiting | NodePhase::Down(_) | NodePhase::Closed => {
                Duration::ZERO
            }
        }
    }

    /// Records that this process was delayed.
    pub(super) fn excuse(&self, now: Timestamp, delay: Duration) {
        let mut state = self.lock();
        state.listen(now);
        state.pulse.excuse(now, delay);
    }

    /// Rejects new calls, and completes when all calls in flight have completed.
    pub(crate) async fn close(&self) {
        {
            let mut state = self.lock();
            // Calls with a connection can complete.
            if !matches!(state.phase, NodePhase::Up(_)) {
                state.phase = NodePhase::Closed;
            }
        }
        self.changed.notify_waiters();
        loop {
            let drained = self.drained.notified();
            let mut drained = pin!(drained);
            drained.as_mut().enable();
            if self.lock().pulse.waiting() == 0 {
                break;
            }
            drained.await;
        }
        self.end();
    }

    /// Closes the connection immediately.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        state.phase = NodePhase::Closed;
        if std::mem::take(&mut state.is_told_down) {
            self.ground.watch.forgotten();
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Returns the connection. If the connection is being opened, waits for it.
    pub(super) async fn live(self: &Arc<Self>) -> Result<(MultiplexedConnection, u64), Fault> {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let mut state = self.lock();
                match &state.phase {
                    NodePhase::Up(live) => return Ok((live.connection.clone(), state.generation)),
                    NodePhase::Down(kind) => return Err(Fault::unsent(*kind)),
                    NodePhase::Closed => return Err(Fault::unsent(StoreErrorKind::Unavailable)),
                    NodePhase::Idle => {
                        state.phase = NodePhase::Waiting;
                        self.connect(&mut state);
                    }
                    NodePhase::Waiting => self.connect(&mut state),
                }
            }
            changed.await;
        }
    }

    /// Discards the connection with this generation.
    pub(super) fn lose(self: &Arc<Self>, generation: u64) {
        let mut state = self.lock();
        if !matches!(state.phase, NodePhase::Up(_)) || state.generation != generation {
            return;
        }
        if self.next_attempt_in(&state) > self.ground.connect_timeout {
            // The connection was lost right after it was opened: calls do not wait for the next
            // one.
            self.give_up(&mut state, &StoreErrorKind::Unavailable.into());
            return;
        }
        state.phase = NodePhase::Waiting;
        self.connect(&mut state);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Marks the server as unavailable.
    pub(super) fn give_up(self: &Arc<Self>, state: &mut NodeState, error: &StoreError) {
        let outage = Outage::of(&self.endpoint, error);
        state.phase = NodePhase::Down(outage.kind_of_calls());
        state.pulse.renew(self.ground.clock.now());
        match std::mem::replace(&mut state.is_told_down, true) {
            true => self.ground.watch.still_down(outage),
            false => self.ground.watch.down(outage),
        }
        self.connect(state);
        self.changed.notify_waiters();
        if let Some(on_down) = &self.on_down {
            on_down();
        }
    }

    /// Starts to connect in the background, unless an attempt is already in progress.
    fn connect(self: &Arc<Self>, state: &mut NodeState) {
        if state.attempts.strong_count() == 0 {
            let alive = Arc::new(());
            state.attempts = Arc::downgrade(&alive);
            // A runtime that shuts down drops the task inside `spawn`: its drop must take no lock.
            let attempts = Attempts {
                node: Arc::downgrade(self),
                _alive: alive,
            };
            let task = attempts.until_connected(Arc::clone(&self.ground));
            self.ground.runtime.spawn(Box::pin(task));
        }
    }

    /// Returns the time until the next attempt.
    fn next_attempt_in(&self, state: &NodeState) -> Duration {
        let Some(last) = state.attempted_at else {
            return Duration::ZERO;
        };
        let jitter = getrandom::u64().unwrap_or_default() % JITTER_MAX_MICROS;
        let since = self.ground.clock.now() - last;
        (ATTEMPT_INTERVAL + Duration::from_micros(jitter)).saturating_sub(since)
    }

    fn wait(&self) -> Duration {
        self.next_attempt_in(&self.lock())
    }

    /// Attempts to connect once. Returns `true` if no further attempt is needed.
    async fn attempt(self: &Arc<Self>) -> bool {
        let begun = self.ground.clock.now();
        {
            let mut state = self.lock();
            if matches!(state.phase, NodePhase::Closed) {
                return true;
            }
            state.attempted_at = Some(begun);
        }
        self.ground.watch.connects.add_one();
        let mut attempt = pin!(self.open());
        let soon = self.ground.connect_timeout;
        let connected = match self.ground.in_time(soon, attempt.as_mut()).await {
            Some(connected) => connected,
            None => {
                self.wait_no_longer();
                attempt.await
            }
        };
        let mut state = self.lock();
        if matches!(state.phase, NodePhase::Closed) {
            return true;
        }
        match connected {
            Ok((connection, driver)) => {
                let took = self.ground.clock.now() - begun;
                state.pulse.measured(took / CONNECT_TRIPS);
                self.go_up(&mut state, connection, driver);
                true
            }
            Err(fault) => {
                self.give_up(&mut state, &fault.error);
                false
            }
        }
    }

    async fn open(&self) -> Result<(MultiplexedConnection, Driver), Fault> {
        let timeout = ATTEMPT_MAX.max(self.ground.connect_timeout);
        let wire = self.endpoint.open(&self.ground, timeout).await?;
        let shared = wire.share(self.ground.max_pending_calls).await;
        shared.map_err(|error| Fault::for_setup(&error))
    }

    /// Authenticates the open connection, if there is one.
    pub(crate) async fn authenticate(&self, credentials: &RedisCredentials) -> Result<(), Fault> {
        let live = match &self.lock().phase {
            NodePhase::Up(live) => Some(live.connection.clone()),
            NodePhase::Idle | NodePhase::Waiting | NodePhase::Down(_) | NodePhase::Closed => None,
        };
        let Some(mut connection) = live else {
            return Ok(());
        };
        let command = credentials.command();
        let limit = self.ground.runtime.sleep(ATTEMPT_MAX);
        let replied = within(limit, connection.send_packed_command(&command)).await;
        reply_of(replied.ok_or_else(Fault::silent)?)??;
        Ok(())
    }

    fn wait_no_longer(self: &Arc<Self>) {
        let mut state = self.lock();
        if matches!(state.phase, NodePhase::Waiting) {
            self.give_up(&mut state, &StoreErrorKind::Timeout.into());
        }
    }

    fn go_up(
        self: &Arc<Self>,
        state: &mut NodeState,
        connection: MultiplexedConnection,
        driver: Driver,
    ) {
        let (stop, stopped) = oneshot::channel();
        state.generation += 1;
        state.attempts = Weak::new();
        state.pulse.renew(self.ground.clock.now());
        state.replies = driver.replies().count();
        state.phase = NodePhase::Up(LiveConnection {
            connection,
            replies: driver.replies().clone(),
            _stop: stop,
        });
        if std::mem::take(&mut state.is_told_down) {
            self.ground.watch.up(&self.endpoint.to_string());
        }
        let (node, generation) = (Arc::downgrade(self), state.generation);
        let drive = async move {
            // Dropping the driver wakes all calls that wait for a reply.
            until_stopped(driver, stopped).await;
            if let Some(node) = node.upgrade() {
                node.lose(generation);
            }
        };
        self.ground.runtime.spawn(Box::pin(drive));
        self.changed.notify_waiters();
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, NodeState> {
        // The state is consistent whenever the lock is released, also by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NodeState {
    /// Takes new replies into account, including replies to calls that were given up.
    pub(super) fn listen(&mut self, now: Timestamp) {
        if let NodePhase::Up(live) = &self.phase {
            let replies = live.replies.count();
            if std::mem::replace(&mut self.replies, replies) != replies {
                self.pulse.heard(now);
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.end();
    }
}

/// The connecting task. If the task's runtime ends first, the next call starts another task.
struct Attempts {
    node: Weak<Node>,
    _alive: Arc<()>,
}

impl Attempts {
    async fn until_connected(self, ground: Arc<Ground>) {
        loop {
            let Some(wait) = self.node.upgrade().map(|node| node.wait()) else {
                return;
            };
            if !wait.is_zero() {
                ground.runtime.sleep(wait).await;
            }
            match self.node.upgrade() {
                Some(node) => {
                    if node.attempt().await {
                        return;
                    }
                }
                None => return,
            }
        }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = match self.lock().phase {
            NodePhase::Idle => "idle",
            NodePhase::Waiting => "connecting",
            NodePhase::Up(_) => "up",
            NodePhase::Down(_) => "down",
            NodePhase::Closed => "closed",
        };
        write!(f, "{} ({phase})", self.endpoint)
    }
}

/// Drives a connection until it ends or its node drops it.
async fn until_stopped(driver: Driver, stopped: oneshot::Receiver<()>) {
    let stopped = async move { drop(stopped.await) };
    within(stopped, driver).await;
}
