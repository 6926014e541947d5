//! Single flight: one piece of work for many concurrent requests for the same key.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    hash::Hash,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Wake, Waker},
};

/// The flights under way, by key.
///
/// A flight that is removed goes on for the requests that wait for it, but no further request finds
/// it. The owner of the table locks it: the lock is taken before that of a flight, never after.
pub(crate) struct FlightTable<K, F> {
    under_way: HashMap<K, Arc<F>>,
    max: usize,
}

/// Work that one request leads, and the requests that wait for its outcome.
///
/// ```text
/// under way ──── land, or the leader is dropped ────> landed
/// ```
///
/// Each waiter is woken at the landing and reads a copy of the outcome. `S` is what the leader shares
/// with the waiters before that, with a lock of its own: after a change, [`wake_all`](Self::wake_all)
/// tells them. A timeout of a waiter is its own; where no further request shall wait for a slow leader,
/// the flight is [removed](FlightTable::remove) from its table.
pub(crate) struct Flight<T, S = ()> {
    state: Mutex<FlightState<T>>,
    pub(crate) shared: S,
}

struct FlightState<T> {
    outcome: Option<T>,
    /// The requests that wait, by their numbers, once they were polled.
    wakers: HashMap<u64, Waker>,
    /// The number of requests that wait.
    waiters: usize,
    next_number: u64,
}

/// The leader's hold on a flight. The flight lands with its outcome when it is dropped, by a panic
/// too.
pub(crate) struct FlightLeader<T, S = ()> {
    flight: Arc<Flight<T, S>>,
    outcome: Option<T>,
}

/// A request's place among those that wait for a flight. It is given up when it is dropped.
pub(crate) struct FlightWaiter<T, S = ()> {
    flight: Arc<Flight<T, S>>,
    number: u64,
}

impl<K: Copy + Eq + Hash, F> FlightTable<K, F> {
    /// Creates a table of at most `max` flights.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            under_way: HashMap::new(),
            max,
        }
    }

    pub(crate) fn get(&self, key: &K) -> Option<&Arc<F>> {
        self.under_way.get(key)
    }

    /// Adds a flight, unless another one is under way for its key or the table is full.
    pub(crate) fn begin(&mut self, key: K, flight: impl FnOnce() -> Arc<F>) -> Option<&Arc<F>> {
        let is_full = self.under_way.len() >= self.max;
        match self.under_way.entry(key) {
            Entry::Vacant(place) if !is_full => Some(place.insert(flight())),
            Entry::Vacant(_) | Entry::Occupied(_) => None,
        }
    }

    /// Removes a flight. Returns whether it was still under way for its key: another one may have
    /// taken its place.
    pub(crate) fn remove(&mut self, key: &K, flight: &Arc<F>) -> bool {
        let own = self.under_way.get(key);
        let is_own = own.is_some_and(|own| Arc::ptr_eq(own, flight));
        if is_own {
            self.under_way.remove(key);
        }
        is_own
    }

    /// Removes whichever flight is under way for a key.
    pub(crate) fn take(&mut self, key: &K) -> Option<Arc<F>> {
        self.under_way.remove(key)
    }

    /// Removes all flights.
    pub(crate) fn take_all(&mut self) -> HashMap<K, Arc<F>> {
        mem::take(&mut self.under_way)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.under_way.len()
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

    /// Adds a waiter, unless `max_waiters` wait already.
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

    /// Takes the lead. The flight lands with `outcome`, unless the leader sets another one.
    pub(crate) fn lead(self: &Arc<Self>, outcome: T) -> FlightLeader<T, S> {
        FlightLeader {
            flight: Arc::clone(self),
            outcome: Some(outcome),
        }
    }

    pub(crate) fn waiters(&self) -> usize {
        self.lock().waiters
    }

    /// Ends the flight. Another landing replaces the outcome.
    pub(crate) fn land(&self, outcome: T) {
        let mut state = self.lock();
        state.outcome = Some(outcome);
        wake(state);
    }

    /// Wakes each waiter once, so that it looks at what changed.
    pub(crate) fn wake_all(&self) {
        wake(self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, FlightState<T>> {
        // No foreign code runs under this lock: each holder leaves a consistent state behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes all waiters, without the lock: a waker is foreign code.
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

    /// Gives up the lead. The flight goes on, so that another request may lead it.
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

    /// Returns the outcome once the flight has landed. Until then, the task is woken at the landing and
    /// by [`Flight::wake_all`].
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

    /// Counts how often it is woken.
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
    fn leader_that_resigns_leaves_the_flight_under_way() {
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
