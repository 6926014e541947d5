//! Single flight: one call of the handler for many concurrent requests for the same response.
//!
//! A waiter looks its own cache key up again once the flight has landed. While the body of a storable
//! response is on its way, the waiter may stream it instead.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use crate::{cache::fill::relay::Relay, core::store_api::store_key::LongStoreKey};

/// The maximum number of concurrent flights. A request beyond it calls the handler on its own.
const FLIGHTS_MAX: usize = 1_024;

/// The flights under way, by cache key.
#[derive(Debug)]
pub(crate) struct Flights {
    under_way: Mutex<HashMap<LongStoreKey, Arc<Flight>>>,
    /// The number of flights that have landed.
    landed: AtomicU64,
    waiters_max: usize,
}

/// The role of a request in a flight.
#[derive(Debug)]
pub(crate) enum Boarding {
    /// It calls the handler, and others wait for it.
    Lead(Lead),
    /// It waits for the leader.
    Wait(Wait),
    /// It calls the handler, and nobody waits for it.
    Alone,
}

/// The outcome of a flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Landing {
    /// The response is stored.
    Stored,
    /// The response is not stored under the flight's key.
    NotStored,
    /// The origin failed: it returned an error, or a status that a stale response may stand in for.
    Failed,
    /// The leader was dropped before its response came, or the response was purged: one of the
    /// waiters takes over.
    Abandoned,
}

/// The end of a wait.
#[derive(Debug)]
pub(crate) enum Awaited {
    Landing(Landing),
    /// The head of a storable response has come. Returned once to each waiter.
    Relay(Arc<Relay>),
}

impl Flights {
    pub(crate) fn new(waiters_max: usize) -> Self {
        Self {
            under_way: Mutex::default(),
            landed: AtomicU64::new(0),
            waiters_max,
        }
    }

    pub(crate) fn board(self: &Arc<Self>, key: &LongStoreKey) -> Boarding {
        if self.waiters_max == 0 {
            return Boarding::Alone;
        }
        let mut under_way = lock(&self.under_way);
        if let Some(flight) = under_way.get(key) {
            let flight = Arc::clone(flight);
            drop(under_way);
            return self.join(key, flight);
        }
        if under_way.len() >= FLIGHTS_MAX {
            return Boarding::Alone;
        }
        let lead = self.detached(key);
        under_way.insert(*key, Arc::clone(&lead.flight));
        Boarding::Lead(lead)
    }

    /// Returns the lead of a new flight, unless one is under way. Others need not be able to wait for it.
    pub(crate) fn lead(self: &Arc<Self>, key: &LongStoreKey) -> Option<Lead> {
        let mut under_way = lock(&self.under_way);
        if under_way.contains_key(key) || under_way.len() >= FLIGHTS_MAX {
            return None;
        }
        let lead = self.detached(key);
        under_way.insert(*key, Arc::clone(&lead.flight));
        Some(lead)
    }

    fn join(self: &Arc<Self>, key: &LongStoreKey, flight: Arc<Flight>) -> Boarding {
        let Some(id) = flight.join(self.waiters_max) else {
            return Boarding::Alone;
        };
        // The leader's client may be slow: from here on, the body is read without it.
        let can_wait = flight.pump().is_none_or(|start| start());
        let wait = Wait {
            flights: Arc::clone(self),
            key: *key,
            flight,
            id,
            may_stream: true,
        };
        match can_wait {
            true => Boarding::Wait(wait),
            false => Boarding::Alone,
        }
    }

    /// Returns the lead of a flight that no other request can join.
    pub(crate) fn detached(self: &Arc<Self>, key: &LongStoreKey) -> Lead {
        Lead {
            flights: Arc::clone(self),
            key: *key,
            flight: Arc::default(),
            landing: Landing::Abandoned,
        }
    }

    /// Returns the number of flights that have landed. A request that looked the store up before the
    /// last of them looks again before it calls the handler.
    pub(crate) fn landed(&self) -> u64 {
        self.landed.load(Ordering::Acquire)
    }

    /// Counts a response that was stored outside of a flight.
    pub(crate) fn count_stored(&self) {
        self.landed.fetch_add(1, Ordering::AcqRel);
    }

    /// Removes a flight, unless another one has taken its place.
    fn remove(&self, key: &LongStoreKey, flight: &Arc<Flight>) {
        let mut under_way = lock(&self.under_way);
        if under_way
            .get(key)
            .is_some_and(|own| Arc::ptr_eq(own, flight))
        {
            under_way.remove(key);
        }
    }

    /// Returns the number of flights under way.
    #[cfg(test)]
    fn len(&self) -> usize {
        lock(&self.under_way).len()
    }
}

/// Starts to read the leader's body in the background, unless that goes on already. Returns whether it
/// is possible.
pub(super) type Pump = Arc<dyn Fn() -> bool + Send + Sync>;

/// A call of the handler that others wait for.
#[derive(Default)]
struct Flight {
    state: Mutex<FlightState>,
}

#[derive(Default)]
struct FlightState {
    landing: Option<Landing>,
    waiting: HashMap<u64, Waker>,
    joined: usize,
    next_id: u64,
    /// Present while the body of a storable response is not complete.
    pump: Option<Pump>,
    /// Present once that body is read on behalf of waiters.
    relay: Option<Arc<Relay>>,
    /// Whether a request has waited in vain for that body to be stored.
    is_slow: bool,
}

impl FlightState {
    fn join(&mut self) -> u64 {
        self.joined += 1;
        self.next_id += 1;
        self.next_id
    }
}

impl Flight {
    fn join(&self, waiters_max: usize) -> Option<u64> {
        let mut state = lock(&self.state);
        (state.joined < waiters_max).then(|| state.join())
    }

    fn pump(&self) -> Option<Pump> {
        lock(&self.state).pump.clone()
    }

    fn land(&self, landing: Landing) {
        let mut state = lock(&self.state);
        state.landing = Some(landing);
        let waiting = std::mem::take(&mut state.waiting);
        let (pump, relay) = (state.pump.take(), state.relay.take());
        drop(state);
        drop((pump, relay));
        for waker in waiting.into_values() {
            waker.wake();
        }
    }
}

impl fmt::Debug for Flight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Flight")
    }
}

/// The leader's hold on a flight. Dropped before it [lands](Lead::land), it lets a waiter take over.
pub(crate) struct Lead {
    flights: Arc<Flights>,
    key: LongStoreKey,
    flight: Arc<Flight>,
    landing: Landing,
}

impl Lead {
    pub(crate) fn is_for(&self, key: &LongStoreKey) -> bool {
        self.key == *key
    }

    /// Returns whether another request waits for this one.
    pub(crate) fn has_waiters(&self) -> bool {
        lock(&self.flight.state).joined > 0
    }

    /// Waits for the leader's own flight.
    pub(crate) fn wait(&self) -> Wait {
        Wait::of(&self.flights, self.key, &self.flight)
    }

    /// Lets the requests that wait stream the response, and those that come later.
    pub(crate) fn publish(&self, relay: Arc<Relay>) {
        let mut state = lock(&self.flight.state);
        state.relay = Some(relay);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        for waker in waiting.into_values() {
            waker.wake();
        }
    }

    /// Takes the flight out of the table: no further request waits for it.
    pub(crate) fn retire(&self) {
        self.flights.remove(&self.key, &self.flight);
    }

    /// Returns where to offer a pump for the body of the leader's response.
    pub(crate) fn pump_offer(&self) -> PumpOffer {
        PumpOffer {
            flight: Arc::clone(&self.flight),
        }
    }

    /// Ends the flight.
    pub(crate) fn land(mut self, landing: Landing) {
        self.landing = landing;
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.flights.landed.fetch_add(1, Ordering::AcqRel);
        self.flights.remove(&self.key, &self.flight);
        self.flight.land(self.landing);
    }
}

impl fmt::Debug for Lead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lead")
    }
}

/// Takes the pump of a flight whose response is storable, and whose body is not complete.
pub(crate) struct PumpOffer {
    flight: Arc<Flight>,
}

impl PumpOffer {
    /// Starts the pump once a request waits, or at once if one does already. Until then, the leader's
    /// client reads the body.
    pub(crate) fn offer(self, pump: Pump) {
        let mut state = lock(&self.flight.state);
        state.pump = Some(Arc::clone(&pump));
        let has_waiters = state.joined > 0;
        drop(state);
        if has_waiters && !pump() {
            // Nothing reads on behalf of the waiters.
            self.flight.land(Landing::NotStored);
        }
    }
}

/// Waits for a flight to land.
pub(crate) struct Wait {
    flights: Arc<Flights>,
    key: LongStoreKey,
    flight: Arc<Flight>,
    id: u64,
    may_stream: bool,
}

impl Wait {
    /// Waits for the landing of a flight alone.
    fn of(flights: &Arc<Flights>, key: LongStoreKey, flight: &Arc<Flight>) -> Self {
        Self {
            flights: Arc::clone(flights),
            key,
            id: lock(&flight.state).join(),
            flight: Arc::clone(flight),
            may_stream: false,
        }
    }

    /// Notes that the flight has taken too long: no further request waits for it. Returns its landing
    /// as far as it concerns a request that cannot stream the response, if others can.
    pub(crate) fn give_up(&self) -> Option<Landing> {
        let mut state = lock(&self.flight.state);
        if state.relay.is_some() {
            state.is_slow = true;
            return Some(Landing::NotStored);
        }
        drop(state);
        self.flights.remove(&self.key, &self.flight);
        None
    }

    /// Waits for the same flight once more, without its response.
    pub(crate) fn again(&self) -> Self {
        Self::of(&self.flights, self.key, &self.flight)
    }

    /// Returns whether it would be in vain to wait until the response is stored.
    pub(crate) fn is_slow(&self) -> bool {
        lock(&self.flight.state).is_slow
    }
}

impl fmt::Debug for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wait")
    }
}

impl Future for Wait {
    type Output = Awaited;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Awaited> {
        let this = &mut *self;
        let mut state = lock(&this.flight.state);
        if let Some(landing) = state.landing {
            return Poll::Ready(Awaited::Landing(landing));
        }
        if let Some(relay) = state.relay.as_ref().filter(|_| this.may_stream) {
            this.may_stream = false;
            return Poll::Ready(Awaited::Relay(Arc::clone(relay)));
        }
        state.waiting.insert(this.id, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut state = lock(&self.flight.state);
        state.waiting.remove(&self.id);
        state.joined -= 1;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No user code runs under these locks: each holder leaves a consistent state behind.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::store_api::store_key::StoreKeys;

    fn key(name: u8) -> LongStoreKey {
        let space = StoreKeys::from_secret(&[5; 32]).unwrap().space("f");
        let mut key = space.long();
        key.field(&[name]);
        key.finish()
    }

    fn lead(flights: &Arc<Flights>) -> Lead {
        match flights.board(&key(1)) {
            Boarding::Lead(lead) => lead,
            other => panic!("{other:?}"),
        }
    }

    fn wait(flights: &Arc<Flights>) -> Wait {
        match flights.board(&key(1)) {
            Boarding::Wait(wait) => wait,
            other => panic!("{other:?}"),
        }
    }

    fn poll(wait: &mut Wait) -> Poll<Landing> {
        let awaited = Pin::new(wait).poll(&mut Context::from_waker(Waker::noop()));
        awaited.map(|awaited| match awaited {
            Awaited::Landing(landing) => landing,
            Awaited::Relay(relay) => panic!("{relay:?}"),
        })
    }

    #[test]
    fn waiters_receive_the_landing_of_the_leader() {
        for landing in [Landing::Stored, Landing::NotStored, Landing::Failed] {
            let flights = Arc::new(Flights::new(10));
            let first = lead(&flights);
            let (mut one, mut two) = (wait(&flights), wait(&flights));
            assert!(poll(&mut one).is_pending());
            first.land(landing);
            assert_eq!(poll(&mut one), Poll::Ready(landing));
            assert_eq!(poll(&mut two), Poll::Ready(landing));
            assert_eq!(flights.len(), 0);
        }
    }

    #[test]
    fn a_waiter_takes_over_from_a_dropped_leader() {
        let flights = Arc::new(Flights::new(10));
        let first = lead(&flights);
        let mut one = wait(&flights);
        drop(first);
        assert_eq!(poll(&mut one), Poll::Ready(Landing::Abandoned));
        drop(lead(&flights));
    }

    #[test]
    fn a_retired_flight_is_replaced_and_does_not_end_its_successor() {
        let flights = Arc::new(Flights::new(10));
        let hung = lead(&flights);
        let mut late = wait(&flights);
        assert_eq!(late.give_up(), None);
        let next = lead(&flights);
        let mut one = wait(&flights);
        hung.land(Landing::NotStored);
        assert_eq!(poll(&mut late), Poll::Ready(Landing::NotStored));
        assert!(poll(&mut one).is_pending());
        next.land(Landing::Stored);
        assert_eq!(poll(&mut one), Poll::Ready(Landing::Stored));
    }

    #[test]
    fn a_waiter_starts_the_pump() {
        let flights = Arc::new(Flights::new(10));
        let leader = lead(&flights);
        let started = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&started);
        leader.pump_offer().offer(Arc::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
            true
        }));
        assert_eq!(started.load(Ordering::SeqCst), 0);
        let _waiter = wait(&flights);
        assert_eq!(started.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_request_does_not_wait_where_nothing_can_read_the_body() {
        let flights = Arc::new(Flights::new(10));
        let leader = lead(&flights);
        leader.pump_offer().offer(Arc::new(|| false));
        assert!(matches!(flights.board(&key(1)), Boarding::Alone));
    }

    #[test]
    fn requests_beyond_the_maximum_do_not_wait() {
        let flights = Arc::new(Flights::new(1));
        let _first = lead(&flights);
        let one = wait(&flights);
        assert!(matches!(flights.board(&key(1)), Boarding::Alone));
        drop(one);
        wait(&flights);
    }

    #[test]
    fn a_dropped_waiter_leaves_no_waker() {
        let flights = Arc::new(Flights::new(10));
        let first = lead(&flights);
        let mut one = wait(&flights);
        assert!(poll(&mut one).is_pending());
        drop(one);
        assert!(lock(&first.flight.state).waiting.is_empty());
        assert!(!first.has_waiters());
    }

    #[test]
    fn the_table_of_flights_is_bounded() {
        let flights = Arc::new(Flights::new(10));
        let keys = StoreKeys::from_secret(&[5; 32]).unwrap().space("f");
        let mut space = Vec::new();
        for name in 0..=FLIGHTS_MAX {
            let mut key = keys.long();
            key.field(&name.to_le_bytes());
            space.push(flights.board(&key.finish()));
        }
        assert!(matches!(space.pop(), Some(Boarding::Alone)));
        assert!(
            space
                .iter()
                .all(|boarding| matches!(boarding, Boarding::Lead(_)))
        );
        drop(space);
        assert_eq!(flights.len(), 0);
    }
}
