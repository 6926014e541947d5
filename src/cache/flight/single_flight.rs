//! Single flight: one call of the handler for many concurrent requests for the same response.
//!
//! A waiter looks its own cache key up again once the flight has landed. While the body of a storable
//! response is on its way, the waiter may stream it instead.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use crate::{
    cache::fill::relay::Relay,
    core::{
        single_flight::{Flight, FlightLeader, FlightTable, FlightWaiter},
        store_api::store_key::LongStoreKey,
    },
};

/// The maximum number of concurrent flights. A request beyond it calls the handler on its own.
const FLIGHTS_MAX: usize = 1_024;

/// The flights under way, by cache key.
#[derive(Debug)]
pub(crate) struct Flights {
    under_way: Mutex<FlightTable<LongStoreKey, FillFlight>>,
    /// The number of flights that have landed.
    landed: AtomicU64,
    max_waiters: usize,
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
    pub(crate) fn new(max_waiters: usize) -> Self {
        Self {
            under_way: Mutex::new(FlightTable::new(FLIGHTS_MAX)),
            landed: AtomicU64::new(0),
            max_waiters,
        }
    }

    pub(crate) fn board(self: &Arc<Self>, key: &LongStoreKey) -> Boarding {
        if self.max_waiters == 0 {
            return Boarding::Alone;
        }
        let mut under_way = lock(&self.under_way);
        if let Some(flight) = under_way.get(key) {
            let flight = Arc::clone(flight);
            drop(under_way);
            return self.join(key, &flight);
        }
        match under_way.begin(*key, Arc::default) {
            Some(flight) => Boarding::Lead(self.lead_of(key, flight)),
            None => Boarding::Alone,
        }
    }

    /// Returns the lead of a new flight, unless one is under way. Others need not be able to wait for it.
    pub(crate) fn lead(self: &Arc<Self>, key: &LongStoreKey) -> Option<Lead> {
        let mut under_way = lock(&self.under_way);
        let flight = under_way.begin(*key, Arc::default)?;
        Some(self.lead_of(key, flight))
    }

    fn join(self: &Arc<Self>, key: &LongStoreKey, flight: &Arc<FillFlight>) -> Boarding {
        let Some(waiter) = flight.try_join(self.max_waiters) else {
            return Boarding::Alone;
        };
        // The leader's client may be slow: from here on, the body is read without it.
        let pump = lock(&flight.shared).pump.clone();
        let can_wait = pump.is_none_or(|start| start());
        let wait = Wait {
            flights: Arc::clone(self),
            key: *key,
            waiter,
            may_stream: true,
        };
        match can_wait {
            true => Boarding::Wait(wait),
            false => Boarding::Alone,
        }
    }

    /// Returns the lead of a flight that no other request can join.
    pub(crate) fn detached(self: &Arc<Self>, key: &LongStoreKey) -> Lead {
        self.lead_of(key, &Arc::default())
    }

    fn lead_of(self: &Arc<Self>, key: &LongStoreKey, flight: &Arc<FillFlight>) -> Lead {
        Lead {
            flights: Arc::clone(self),
            key: *key,
            leader: flight.lead(Landing::Abandoned),
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
    fn remove(&self, key: &LongStoreKey, flight: &Arc<FillFlight>) {
        lock(&self.under_way).remove(key, flight);
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
type FillFlight = Flight<Landing, Mutex<Streaming>>;

/// The body of a storable response on its way to the store.
#[derive(Default)]
pub(crate) struct Streaming {
    /// Present while the body of a storable response is not complete.
    pump: Option<Pump>,
    /// Present once that body is read on behalf of waiters.
    relay: Option<Arc<Relay>>,
    /// Whether a request has waited in vain for that body to be stored.
    is_slow: bool,
}

/// Drops the body's pump and relay, without the lock: a flight that lands has neither.
fn release_body(flight: &FillFlight) {
    let mut streaming = lock(&flight.shared);
    let body = (streaming.pump.take(), streaming.relay.take());
    drop(streaming);
    drop(body);
}

/// The leader's hold on a flight. Dropped before it [lands](Lead::land), it lets a waiter take over.
pub(crate) struct Lead {
    flights: Arc<Flights>,
    key: LongStoreKey,
    leader: FlightLeader<Landing, Mutex<Streaming>>,
}

impl Lead {
    pub(crate) fn is_for(&self, key: &LongStoreKey) -> bool {
        self.key == *key
    }

    /// Returns whether another request waits for this one.
    pub(crate) fn has_waiters(&self) -> bool {
        self.leader.flight().waiters() > 0
    }

    /// Waits for the leader's own flight.
    pub(crate) fn wait(&self) -> Wait {
        Wait::of(&self.flights, self.key, self.leader.flight())
    }

    /// Lets the requests that wait stream the response, and those that come later.
    pub(crate) fn publish(&self, relay: Arc<Relay>) {
        lock(&self.leader.flight().shared).relay = Some(relay);
        self.leader.flight().wake_all();
    }

    /// Takes the flight out of the table: no further request waits for it.
    pub(crate) fn retire(&self) {
        self.flights.remove(&self.key, self.leader.flight());
    }

    /// Returns where to offer a pump for the body of the leader's response.
    pub(crate) fn pump_offer(&self) -> PumpOffer {
        PumpOffer {
            flight: Arc::clone(self.leader.flight()),
        }
    }

    /// Ends the flight.
    pub(crate) fn land(mut self, landing: Landing) {
        self.leader.set_outcome(landing);
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.flights.landed.fetch_add(1, Ordering::AcqRel);
        self.flights.remove(&self.key, self.leader.flight());
        release_body(self.leader.flight());
    }
}

impl fmt::Debug for Lead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lead")
    }
}

/// Takes the pump of a flight whose response is storable, and whose body is not complete.
pub(crate) struct PumpOffer {
    flight: Arc<FillFlight>,
}

impl PumpOffer {
    /// Starts the pump once a request waits, or at once if one does already. Until then, the leader's
    /// client reads the body.
    pub(crate) fn offer(self, pump: Pump) {
        // Before the waiters are counted: a request that joins later finds the pump.
        lock(&self.flight.shared).pump = Some(Arc::clone(&pump));
        if self.flight.waiters() > 0 && !pump() {
            // Nothing reads on behalf of the waiters.
            release_body(&self.flight);
            self.flight.land(Landing::NotStored);
        }
    }
}

/// Waits for a flight to land.
pub(crate) struct Wait {
    flights: Arc<Flights>,
    key: LongStoreKey,
    waiter: FlightWaiter<Landing, Mutex<Streaming>>,
    may_stream: bool,
}

impl Wait {
    /// Waits for the landing of a flight alone.
    fn of(flights: &Arc<Flights>, key: LongStoreKey, flight: &Arc<FillFlight>) -> Self {
        Self {
            flights: Arc::clone(flights),
            key,
            waiter: flight.join(),
            may_stream: false,
        }
    }

    /// Notes that the flight has taken too long: no further request waits for it. Returns its landing
    /// as far as it concerns a request that cannot stream the response, if others can.
    pub(crate) fn give_up(&self) -> Option<Landing> {
        let flight = self.waiter.flight();
        let mut streaming = lock(&flight.shared);
        if streaming.relay.is_some() {
            streaming.is_slow = true;
            return Some(Landing::NotStored);
        }
        drop(streaming);
        self.flights.remove(&self.key, flight);
        None
    }

    /// Waits for the same flight once more, without its response.
    pub(crate) fn again(&self) -> Self {
        Self::of(&self.flights, self.key, self.waiter.flight())
    }

    /// Returns whether it would be in vain to wait until the response is stored.
    pub(crate) fn is_slow(&self) -> bool {
        lock(&self.waiter.flight().shared).is_slow
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
        if let Poll::Ready(landing) = self.waiter.poll(cx) {
            return Poll::Ready(Awaited::Landing(landing));
        }
        // Looked at after the waker is registered: a relay that comes later wakes the task.
        let relay = match self.may_stream {
            true => lock(&self.waiter.flight().shared).relay.clone(),
            false => None,
        };
        match relay {
            Some(relay) => {
                self.may_stream = false;
                Poll::Ready(Awaited::Relay(relay))
            }
            None => Poll::Pending,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No user code runs under these locks: each holder leaves a consistent state behind.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

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
