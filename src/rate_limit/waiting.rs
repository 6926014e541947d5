//! Those who wait for their turn in a queue.

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

use super::paid::{Deposit, Paid};
use crate::{
    runtime::{Runtime, Task},
    store_key::StoreKey,
};

/// All who wait for a limiter, each behind the others of its partition.
///
/// The store has given each its turn. Who leaves before its turn hands that on to the next, who
/// hands its own on, and so all behind move up by one; the last turn, which nobody has then, is
/// given back to the store. (A store that other processes also ask takes it back only if nobody of
/// theirs stands behind.)
pub(super) struct Line {
    runtime: Arc<dyn Runtime>,
    waiters_max: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    count: usize,
    partitions: HashMap<StoreKey, VecDeque<Arc<Spot>>>,
}

/// The spot of one who waits.
type Spot = Mutex<Held>;

struct Held {
    // Nothing once the turn has come.
    turn: Option<Turn>,
    waker: Option<Waker>,
}

/// A turn: what was paid for it, and the time until it comes.
struct Turn {
    paid: Paid,
    sleep: Task,
}

/// One who waits. Dropped before its turn comes, it leaves the line.
pub(super) struct Waiter {
    line: Arc<Line>,
    partition: StoreKey,
    spot: Arc<Spot>,
}

impl Line {
    pub(super) fn new(runtime: Arc<dyn Runtime>, waiters_max: usize) -> Self {
        Self {
            runtime,
            waiters_max,
            waiting: Mutex::default(),
        }
    }

    /// Joins the line for this long; `None` if too many wait already, and then what was paid has
    /// been given back.
    pub(super) fn join(self: &Arc<Self>, paid: Paid, delay: Duration) -> Option<Waiter> {
        let mut waiting = self.lock();
        if waiting.count >= self.waiters_max {
            drop(waiting);
            paid.give_back();
            return None;
        }
        let partition = *paid.partition();
        let sleep = self.runtime.sleep(delay);
        let line = waiting.partitions.entry(partition).or_default();
        // Two may come here in another order than the store gave them their turns in.
        let after = |spot: &Arc<Spot>| {
            lock(spot)
                .turn
                .as_ref()
                .is_some_and(|t| paid.is_before(&t.paid))
        };
        let at = line.len() - line.iter().rev().take_while(|spot| after(spot)).count();
        let spot = Arc::new(Mutex::new(Held {
            turn: Some(Turn { paid, sleep }),
            waker: None,
        }));
        line.insert(at, Arc::clone(&spot));
        waiting.count += 1;
        Some(Waiter {
            line: Arc::clone(self),
            partition,
            spot,
        })
    }

    /// Takes a spot out of the line. If its turn has not come, that is handed on; returns the turn
    /// that nobody has then, and who is to be woken to look at a new one.
    fn leave(&self, partition: &StoreKey, spot: &Arc<Spot>) -> (Option<Turn>, Vec<Waker>) {
        let mut waiting = self.lock();
        let Some(line) = waiting.partitions.get_mut(partition) else {
            return (None, Vec::new());
        };
        let Some(at) = line.iter().position(|other| Arc::ptr_eq(other, spot)) else {
            return (None, Vec::new());
        };
        line.remove(at);
        let (mut free, mut moved) = (lock(spot).turn.take(), Vec::new());
        if let Some(free) = &mut free {
            for behind in line.iter().skip(at) {
                let mut behind = lock(behind);
                match &mut behind.turn {
                    Some(turn) if free.paid.is_before(&turn.paid) => mem::swap(turn, free),
                    Some(_) | None => continue,
                }
                moved.extend(behind.waker.take());
            }
        }
        if line.is_empty() {
            waiting.partitions.remove(partition);
        }
        waiting.count -= 1;
        (free, moved)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // A spot is put in and taken out in one step each: what a panic left behind is whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lock(spot: &Spot) -> MutexGuard<'_, Held> {
    spot.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Future for Waiter {
    /// What was paid for the turn: it is given back if the request does not go on after all.
    type Output = Deposit;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Deposit> {
        let mut held = lock(&self.spot);
        let turn = held.turn.as_mut().expect("polled after its turn came");
        if turn.sleep.as_mut().poll(cx).is_pending() {
            held.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let turn = held.turn.take().expect("it has just come");
        drop(held);
        self.line.leave(&self.partition, &self.spot);
        Poll::Ready(Deposit::new(turn.paid))
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let (free, moved) = self.line.leave(&self.partition, &self.spot);
        if let Some(turn) = free {
            turn.paid.give_back();
        }
        moved.into_iter().for_each(Waker::wake);
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line")
            .field("waiters_max", &self.waiters_max)
            .field("waiters", &self.lock().count)
            .finish_non_exhaustive()
    }
}
