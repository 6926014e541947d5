//! The queue of requests that wait for their turn.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::charged::{Deposit, Paid};
use crate::core::{
    runtime::{Runtime, Task},
    store_api::store_key::StoreKey,
};

/// The waiting requests of a limiter, ordered by turn within each partition.
///
/// The store assigns the turns. When a request leaves before its turn, the next request takes over
/// that turn and passes on its own turn, so that all later requests move up. The last turn is
/// refunded. A shared store accepts the refund only if no request in another process has a later
/// turn.
pub(crate) struct TurnQueue {
    runtime: Arc<dyn Runtime>,
    max_waiters: usize,
    waiters: Mutex<Waiters>,
}

#[derive(Default)]
struct Waiters {
    count: usize,
    partitions: HashMap<StoreKey, VecDeque<Arc<QueueEntry>>>,
}

/// The entry of a request in the queue.
type QueueEntry = Mutex<QueueEntryState>;

struct QueueEntryState {
    /// `None` after the turn arrived.
    turn: Option<QueueTurn>,
    waker: Option<Waker>,
}

/// A turn's charges, and the sleep until the turn arrives.
struct QueueTurn {
    paid: Paid,
    sleep: Task,
}

/// A request in the queue. Leaves the queue if it is dropped before its turn.
pub(crate) struct Waiter {
    queue: Arc<TurnQueue>,
    partition: StoreKey,
    entry: Arc<QueueEntry>,
}

/// The unused turn and the affected wakers after a request leaves.
#[derive(Default)]
struct QueueDeparture {
    /// The turn that no request uses.
    unused: Option<QueueTurn>,
    /// The wakers of requests whose turn is now earlier.
    moved: Vec<Waker>,
}

impl TurnQueue {
    pub(crate) fn new(runtime: Arc<dyn Runtime>, max_waiters: usize) -> Self {
        Self {
            runtime,
            max_waiters,
            waiters: Mutex::default(),
        }
    }

    /// Adds a request whose turn is after this delay. If the queue is full, returns `None` and
    /// refunds the charges.
    pub(crate) fn join(self: &Arc<Self>, paid: Paid, delay: Duration) -> Option<Waiter> {
        let mut waiters = self.lock();
        if waiters.count >= self.max_waiters {
            drop(waiters);
            paid.give_back();
            return None;
        }
        let partition = *paid.partition();
        let sleep = self.runtime.sleep(delay);
        let entry = waiters.insert(QueueTurn { paid, sleep });
        Some(Waiter {
            queue: Arc::clone(self),
            partition,
            entry,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Waiters> {
        // Each change is atomic, so a panic leaves the state consistent.
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiters {
    fn insert(&mut self, turn: QueueTurn) -> Arc<QueueEntry> {
        let entries = self.partitions.entry(*turn.paid.partition()).or_default();
        // Requests can arrive in a different order than their turns.
        let is_after = |entry: &&Arc<QueueEntry>| {
            let other = lock(entry);
            let other = other.turn.as_ref();
            other.is_some_and(|other| turn.paid.is_before(&other.paid))
        };
        let at = entries.len() - entries.iter().rev().take_while(is_after).count();
        let entry = Arc::new(Mutex::new(QueueEntryState {
            turn: Some(turn),
            waker: None,
        }));
        entries.insert(at, Arc::clone(&entry));
        self.count += 1;
        entry
    }

    /// Removes a request. If the request leaves before its turn, later requests move up.
    fn remove(&mut self, partition: &StoreKey, entry: &Arc<QueueEntry>) -> QueueDeparture {
        let Some(entries) = self.partitions.get_mut(partition) else {
            return QueueDeparture::default();
        };
        let Some(at) = entries.iter().position(|other| Arc::ptr_eq(other, entry)) else {
            return QueueDeparture::default();
        };
        entries.remove(at);
        let departure = match lock(entry).turn.take() {
            Some(turn) => pass_on(turn, entries.iter().skip(at)),
            None => QueueDeparture::default(),
        };
        if entries.is_empty() {
            self.partitions.remove(partition);
        }
        self.count -= 1;
        departure
    }
}

/// Passes a turn to the first of these requests, and each request's own turn to the next.
fn pass_on<'a>(
    mut turn: QueueTurn,
    behind: impl Iterator<Item = &'a Arc<QueueEntry>>,
) -> QueueDeparture {
    let mut moved = Vec::new();
    for entry in behind {
        let mut entry = lock(entry);
        let own = entry.turn.as_mut();
        if let Some(own) = own.filter(|own| turn.paid.is_before(&own.paid)) {
            mem::swap(own, &mut turn);
            moved.extend(entry.waker.take());
        }
    }
    QueueDeparture {
        unused: Some(turn),
        moved,
    }
}

fn lock(entry: &QueueEntry) -> MutexGuard<'_, QueueEntryState> {
    entry.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Waiter {
    fn leave(&self) -> QueueDeparture {
        self.queue.lock().remove(&self.partition, &self.entry)
    }
}

impl Future for Waiter {
    /// The charges, which are refunded unless the request is admitted.
    type Output = Deposit;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Deposit> {
        let mut entry = lock(&self.entry);
        let has_come = |turn: &mut QueueTurn| turn.sleep.as_mut().poll(cx).is_ready();
        let Some(turn) = entry.turn.take_if(has_come) else {
            entry.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        drop(entry);
        drop(self.leave());
        Poll::Ready(Deposit::new(turn.paid))
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let QueueDeparture { unused, moved } = self.leave();
        if let Some(turn) = unused {
            turn.paid.give_back();
        }
        moved.into_iter().for_each(Waker::wake);
    }
}

impl fmt::Debug for TurnQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TurnQueue")
            .field("max_waiters", &self.max_waiters)
            .field("waiters", &self.lock().count)
            .finish_non_exhaustive()
    }
}
