//! Single flight: a single handler call for many concurrent requests for the same response.
//!
//! Waiters look up their own cache keys again after the flight has landed. A waiter can stream the
//! body of a storable response before the body is complete.

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

/// The flights in progress, by cache key.
#[derive(Debug)]
pub(crate) struct Flights {
    in_progress: Mutex<FlightTable<LongStoreKey, FillFlight>>,
    /// The number of flights that have landed.
    landed: AtomicU64,
    max_waiters: usize,
}

/// The role of a request in a flight.
#[derive(Debug)]
pub(crate) enum Boarding {
    /// It calls the handler, and other requests can wait for it.
    Lead(Lead),
    /// It waits for the leader.
    Wait(Wait),
    /// It calls the handler, and no request waits for it.
    Alone,
}

/// The outcome of a flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Landing {
    /// The response is stored.
    Stored,
    /// The response is not stored under the flight's key.
    NotStored,
    /// The origin failed: it returned an error, or a status for which a stale response can be
    /// served.
    Failed,
    /// The leader was dropped before its response arrived, or the response was purged. One of the
    /// waiters takes over.
    Abandoned,
}

/// The end of a wait.
#[derive(Debug)]
pub(crate) enum Awaited {
    Landing(Landing),
    /// The head of a storable response has arrived. Returned once to each waiter.
    Relay(Arc<Relay>),
}

impl Flights {
    pub(crate) fn new(max_waiters: usize) -> Self {
        Self {
            in_progress: Mutex::new(FlightTable::new(FLIGHTS_MAX)),
            landed: AtomicU64::new(0),
            max_waiters,
        }
    }

    pub(crate) fn board(self: &Arc<Self>, key: &LongStoreKey) -> Boarding {
        if self.max_waiters == 0 {
            return Boarding::Alone;
        }
        let mut in_progress = lock(&self.in_progress);
        if let Some(flight) = in_progress.get(key) {
            let flight = Arc::clone(flight);
            drop(in_progress);
            return self.join(key, &flight);
        }
        match in_progress.begin(*key, Arc::default) {
            Some(flight) => Boarding::Lead(self.lead_of(key, flight)),
            None => Boarding::Alone,
        }
    }

    /// Returns the lead of a new flight, unless one is in progress. Other requests need not be able
    /// to join it.
    pub(crate) fn lead(self: &Arc<Self>, key: &LongStoreKey) -> Option<Lead> {
        let mut in_progress = lock(&self.in_progress);
        let flight = in_progress.begin(*key, Arc::default)?;
        Some(self.lead_of(key, flight))
    }

    fn join(self: &Arc<Self>, key: &LongStoreKey, flight: &Arc<FillFlight>) -> Boarding {
        let Some(waiter) = flight.try_join(self.max_waiters) else {
            return Boarding::Alone;
        };
        // The leader's client may be slow, so the body is read independently of it from now on.
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

    /// Returns the number of flights that have landed. A request whose lookup precedes the last
    /// landing looks up again before it calls the handler.
    pub(crate) fn landed(&self) -> u64 {
        self.landed.load(Ordering::Acquire)
    }

    /// Counts a response that was stored outside a flight.
    pub(crate) fn count_stored(&self) {
        self.landed.fetch_add(1, Ordering::AcqRel);
    }

    /// Removes a flight, unless it was replaced.
    fn remove(&self, key: &LongStoreKey, flight: &Arc<FillFlight>) {
        lock(&self.in_progress).remove(key, flight);
    }

    /// Returns the number of flights in progress.
    #[cfg(test)]
    fn len(&self) -> usize {
        lock(&self.in_progress).len()
    }
}

/// Starts reading the leader's body in the background, unless that has started. Returns `false` if
/// it is not possible.
pub(super) type Pump = Arc<dyn Fn() -> bool + Send + Sync>;

/// A handler call for which other requests wait.
type FillFlight = Flight<Landing, Mutex<Streaming>>;

/// The body of a storable response on its way to the store.
#[derive(Default)]
pub(crate) struct Streaming {
    /// Present while the body of a storable response is not complete.
    pump: Option<Pump>,
    /// Present once that body is read on behalf of waiters.
    relay: Option<Arc<Relay>>,
    /// `true` if a wait for the body to be stored has timed out.
    is_slow: bool,
}

/// Drops the body's pump and relay, without the lock: a flight that lands has neither.
fn release_body(flight: &FillFlight) {
    let mut streaming = lock(&flight.shared);
    let body = (streaming.pump.take(), streaming.relay.take());
    drop(streaming);
    drop(body);
}

/// The leader's handle of a flight. If it is dropped before it [lands](Lead::land), a waiter takes
/// over.
pub(crate) struct Lead {
    flights: Arc<Flights>,
    key: LongStoreKey,
    leader: FlightLeader<Landing, Mutex<Streaming>>,
}

impl Lead {
    pub(crate) fn is_for(&self, key: &LongStoreKey) -> bool {
        self.key == *key
    }

    /// Returns `true` if another request waits for this one.
    pub(crate) fn has_waiters(&self) -> bool {
        self.leader.flight().waiters() > 0
    }

    /// Waits for the leader's own flight.
    pub(crate) fn wait(&self) -> Wait {
        Wait::of(&self.flights, self.key, self.leader.flight())
    }

    /// Allows current and later waiters to stream the response.
    pub(crate) fn publish(&self, relay: Arc<Relay>) {
        lock(&self.leader.flight().shared).relay = Some(relay);
        self.leader.flight().wake_all();
    }

    /// Removes the flight from the table. No further request waits for it.
    pub(crate) fn retire(&self) {
        self.flights.remove(&self.key, self.leader.flight());
    }

    /// Returns the offer of a pump for the body of the leader's response.
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

/// An offer of a pump, for a flight with a storable response and an incomplete body.
pub(crate) struct PumpOffer {
    flight: Arc<FillFlight>,
}

impl PumpOffer {
    /// Starts the pump once a request waits, or immediately if one already does. Until then, the
    /// leader's client reads the body.
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
    /// Waits only for the landing of a flight.
    fn of(flights: &Arc<Flights>, key: LongStoreKey, flight: &Arc<FillFlight>) -> Self {
        Self {
            flights: Arc::clone(flights),
            key,
            waiter: flight.join(),
            may_stream: false,
        }
    }

    /// Stops waiting for a slow flight, and keeps later requests from joining it. If the response
    /// is being streamed, returns the landing for requests that cannot stream it.
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

    /// Waits for the landing of the same flight again, without streaming.
    pub(crate) fn again(&self) -> Self {
        Self::of(&self.flights, self.key, self.waiter.flight())
    }

    /// Returns `true` if the response is known to take too long to be stored.
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
        // Read after the waker is registered, so that a later relay wakes the task.
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
    // No user code runs under these locks, and each holder leaves a consistent state.
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
