//! Single flight: one operation for many concurrent requests with the same key.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    hash::Hash,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Wake, Waker},
};

/// The flights in progress, by key.
///
/// A flight that is removed from the table continues for its waiters, but no further request can
/// find it. The table's owner provides the lock of the table. That lock is always acquired before a
/// flight's lock.
pub(crate) struct FlightTable<K, F> {
    in_progress: HashMap<K, Arc<F>>,
    max: usize,
}

/// An operation that has one leader, and the requests that wait for its outcome.
///
/// ```text
/// in progress ──── `land`, or the leader is dropped ────> landed
/// ```
///
/// Each waiter is woken when the flight lands, and receives a clone of the outcome. `S` is state
/// that the leader shares with the waiters before the flight lands. `S` has its own lock, and
/// [`wake_all`](Self::wake_all) notifies the waiters of a change to it. Each waiter has its own
/// timeout. [Removing](FlightTable::remove) a flight from its table prevents further requests from
/// waiting for a slow leader.
pub(crate) struct Flight<T, S = ()> {
    state: Mutex<FlightState<T>>,
    pub(crate) shared: S,
}

struct FlightState<T> {
    outcome: Option<T>,
    /// The wakers of waiters that have been polled, by waiter number.
    wakers: HashMap<u64, Waker>,
    /// The number of waiters.
    waiters: usize,
    next_number: u64,
}

/// The leader's handle to a flight. Dropping the handle lands the flight with its outcome, even
/// during a panic.
pub(crate) struct FlightLeader<T, S = ()> {
    flight: Arc<Flight<T, S>>,
    outcome: Option<T>,
}

/// A waiter for a flight. Dropping the waiter ends its wait.
pub(crate) struct FlightWaiter<T, S = ()> {
    flight: Arc<Flight<T, S>>,
    number: u64,
}

impl<K: Copy + Eq + Hash, F> FlightTable<K, F> {
    /// Creates a table that holds at most `max` flights.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            in_progress: HashMap::new(),
            max,
        }
    }

    pub(crate) fn get(&self, key: &K) -> Option<&Arc<F>> {
        self.in_progress.get(key)
    }

    /// Adds a flight. Returns `None` if another flight is in progress for the key, or if the table
    /// is full.
    pub(crate) fn begin(&mut self, key: K, flight: impl FnOnce() -> Arc<F>) -> Option<&Arc<F>> {
        let is_full = self.in_progress.len() >= self.max;
        match self.in_progress.entry(key) {
            Entry::Vacant(place) if !is_full => Some(place.insert(flight())),
            Entry::Vacant(_) | Entry::Occupied(_) => None,
        }
    }

    /// Removes a flight. Returns `false` if the table no longer contains the flight under this key.
    /// The flight may have been replaced.
    pub(crate) fn remove(&mut self, key: &K, flight: &Arc<F>) -> bool {
        let own = self.in_progress.get(key);
        let is_own = own.is_some_and(|own| Arc::ptr_eq(own, flight));
        if is_own {
            self.in_progress.remove(key);
        }
        is_own
    }

    /// Removes the flight of a key, if there is one.
    pub(crate) fn take(&mut self, key: &K) -> Option<Arc<F>> {
        self.in_progress.remove(key)
    }

    /// Removes all flights.
    pub(crate) fn take_all(&mut self) -> HashMap<K, Arc<F>> {
        mem::take(&mut self.in_progress)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.in_progress.len()
    }
}

impl<K, F> fmt::Debug for FlightTable<K, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FlightTable")
    }
}

impl<T, S> Flight<T, S> {
    /// Adds a waiter.
    pub(crate) fn join(self: &Arc<Self>) -> FlightWaiter<T, S> {
        self.add_waiter(self.lock())
    }

    /// Adds a waiter, unless there are already `max_waiters`.
    #[cfg_attr(not(feature = "cache"), allow(dead_code))]
    pub(crate) fn try_join(self: &Arc<Self>, max_waiters: usize) -> Option<FlightWaiter<T, S>> {
        let state = self.lock();
        (state.waiters < max_waiters).then(|| self.add_waiter(state))
    }

    fn add_waiter(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, FlightState<T>>,
    ) -> FlightWaiter<T, S> {
        state.waiters += 1;
        state.next_number += 1;
        let number = state.next_number;
        drop(state);
        FlightWaiter {
            flight: Arc::clone(self),
            number,
        }
    }

    /// Returns the leader's handle. The flight lands with `outcome`, unless the leader sets another
    /// outcome.
    pub(crate) fn lead(self: &Arc<Self>, outcome: T) -> FlightLeader<T, S> {
        FlightLeader {
            flight: Arc::clone(self),
            outcome: Some(outcome),
        }
    }

    pub(crate) fn waiters(&self) -> usize {
        self.lock().waiters
    }

    /// Ends the flight. If the flight has already landed, replaces the outcome.
    pub(crate) fn land(&self, outcome: T) {
        let mut state = self.lock();
        state.outcome = Some(outcome);
        wake(state);
    }

    /// Wakes each waiter once, so that it can observe a change.
    pub(crate) fn wake_all(&self) {
        wake(self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, FlightState<T>> {
        // No foreign code runs under this lock, and each holder leaves a consistent state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes all waiters after releasing the lock, because a waker can run arbitrary code.
fn wake<T>(mut state: MutexGuard<'_, FlightState<T>>) {
    let wakers = mem::take(&mut state.wakers);
    drop(state);
    wakers.into_values().for_each(Waker::wake);
}

impl<T, S: Default> Default for Flight<T, S> {
    fn default() -> Self {
        let state = FlightState {
            outcome: None,
            wakers: HashMap::new(),
            waiters: 0,
            next_number: 0,
        };
        Self {
            state: Mutex::new(state),
            shared: S::default(),
        }
    }
}

impl<T, S> Wake for Flight<T, S>
where
    T: Send + 'static,
    S: Send + Sync + 'static,
{
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }
}

impl<T, S> FlightLeader<T, S> {
    pub(crate) fn flight(&self) -> &Arc<Flight<T, S>> {
        &self.flight
    }

    /// Sets the outcome with which the flight lands.
    pub(crate) fn set_outcome(&mut self, outcome: T) {
        self.outcome = Some(outcome);
    }

    /// Resigns as the leader. The flight continues, and another request can lead it.
    pub(crate) fn resign(mut self) {
        self.outcome = None;
    }
}

impl<T, S> Drop for FlightLeader<T, S> {
    fn drop(&mut self) {
        if let Some(outcome) = self.outcome.take() {
            self.flight.land(outcome);
        }
    }
}

impl<T, S> FlightWaiter<T, S> {
    pub(crate) fn flight(&self) -> &Arc<Flight<T, S>> {
        &self.flight
    }

    /// Returns the outcome once the flight has landed. Until then, the landing and
    /// [`Flight::wake_all`] wake the task.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<T>
    where
        T: Clone,
    {
        let mut state = self.flight.lock();
        if let Some(outcome) = &state.outcome {
            return Poll::Ready(outcome.clone());
        }
        match state.wakers.entry(self.number) {
            Entry::Occupied(mut own) => own.get_mut().clone_from(cx.waker()),
            Entry::Vacant(place) => drop(place.insert(cx.waker().clone())),
        }
        Poll::Pending
    }
}

impl<T, S> Drop for FlightWaiter<T, S> {
    fn drop(&mut self) {
        let mut state = self.flight.lock();
        let waker = state.wakers.remove(&self.number);
        state.waiters -= 1;
        drop(state);
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Counts the wakes of a waiter.
    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn polled(waiter: &FlightWaiter<char>, wakes: &Arc<Wakes>) -> Poll<char> {
        waiter.poll(&Context::from_waker(&Waker::from(Arc::clone(wakes))))
    }

    #[test]
    fn waiters_are_woken_once_and_read_the_outcome_of_the_leader() {
        let (flight, wakes) = (Arc::new(Flight::default()), Arc::default());
        let mut leader = flight.lead('a');
        let waiters = [flight.join(), flight.join()];
        for waiter in waiters.iter().chain(&waiters) {
            assert_eq!(polled(waiter, &wakes), Poll::Pending);
        }
        leader.set_outcome('b');
        assert_eq!(wakes.0.load(Ordering::SeqCst), 0);
        drop(leader);
        assert_eq!(wakes.0.load(Ordering::SeqCst), 2);
        for waiter in &waiters {
            assert_eq!(polled(waiter, &wakes), Poll::Ready('b'));
        }
        assert_eq!(polled(&flight.join(), &wakes), Poll::Ready('b'));
    }

    #[test]
    fn leader_that_panics_lands_the_flight() {
        let (flight, wakes) = (Arc::new(Flight::default()), Arc::default());
        let waiter = flight.join();
        assert!(polled(&waiter, &wakes).is_pending());
        let leader = flight.lead('a');
        let panicked = std::panic::catch_unwind(move || {
            let _leader = std::panic::AssertUnwindSafe(leader);
            panic!("the leader fails");
        });
        assert!(panicked.is_err());
        assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
        assert_eq!(polled(&waiter, &wakes), Poll::Ready('a'));
    }

    #[test]
    fn flight_stays_in_progress_after_its_leader_resigns() {
        let (flight, wakes) = (Arc::new(Flight::default()), Arc::default());
        let waiter = flight.join();
        flight.lead('a').resign();
        assert!(polled(&waiter, &wakes).is_pending());
        drop(flight.lead('b'));
        assert_eq!(polled(&waiter, &wakes), Poll::Ready('b'));
    }

    #[test]
    fn dropped_waiter_leaves_its_place_and_no_waker() {
        let (flight, wakes) = (Arc::new(Flight::<char>::default()), Arc::default());
        let one = flight.try_join(1).unwrap();
        assert!(flight.try_join(1).is_none());
        assert!(polled(&one, &wakes).is_pending());
        drop(one);
        assert!(flight.lock().wakers.is_empty());
        assert_eq!(flight.waiters(), 0);
        assert!(flight.try_join(1).is_some());
        assert_eq!(wakes.0.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn table_removes_a_flight_only_under_its_own_key() {
        let mut table = FlightTable::new(2);
        let first = Arc::clone(table.begin(1, Arc::<u8>::default).unwrap());
        assert!(table.begin(1, Arc::default).is_none());
        assert!(table.begin(2, Arc::default).is_some());
        assert!(table.begin(3, Arc::default).is_none());
        assert!(table.remove(&1, &first));
        table.begin(1, Arc::default).unwrap();
        assert!(!table.remove(&1, &first));
        assert!(table.take(&1).is_some() && table.get(&1).is_none());
        assert_eq!((table.take_all().len(), table.len()), (1, 0));
    }
}
