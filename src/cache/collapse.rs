//! One call of the handler for many requests that want the same answer at once.
//!
//! Nobody is handed another's answer here: who waited looks into the store again, under a key of
//! its own.

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
    time::Duration,
};

use crate::{store_key::LongStoreKey, time::Timestamp};

/// The most answers that are waited for at one moment; whoever wants a further one makes it alone.
const FLIGHTS_MAX: usize = 1_024;
/// For how long nobody waits for an answer that turned out not to be one for the store.
const ALONE_FOR: Duration = Duration::from_secs(5);

/// For how many keys that is remembered, in 64 KiB.
const PLACES: usize = 8_192;

/// The answers that are being made.
#[derive(Debug)]
pub(super) struct Flights {
    under_way: Mutex<HashMap<LongStoreKey, Arc<Flight>>>,
    /// Counts the answers that were made.
    landed: AtomicU64,
    waiters_max: usize,
    alone: Alone,
}

/// How a request comes to its answer.
#[derive(Debug)]
pub(super) enum Boarding {
    /// It calls the handler, and others wait for it.
    Lead(Lead),
    /// It waits for another one.
    Wait(Wait),
    /// It calls the handler, and nobody waits.
    Alone,
}

/// What became of the answer that others waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Landing {
    /// It is in the store.
    Stored,
    /// It is none for the store.
    NotStored,
    /// Nobody makes it any more: one of those who waited has to.
    Abandoned,
}

impl Flights {
    pub(super) fn new(waiters_max: usize) -> Self {
        Self {
            under_way: Mutex::default(),
            landed: AtomicU64::new(0),
            waiters_max,
            alone: Alone::default(),
        }
    }

    pub(super) fn board(self: &Arc<Self>, key: &LongStoreKey, now: Timestamp) -> Boarding {
        if self.waiters_max == 0 || self.alone.holds(key, now) {
            return Boarding::Alone;
        }
        let mut under_way = lock(&self.under_way);
        if let Some(flight) = under_way.get(key) {
            return match flight.join(self.waiters_max) {
                Some(id) => Boarding::Wait(Wait {
                    flight: Arc::clone(flight),
                    id,
                }),
                None => Boarding::Alone,
            };
        }
        if under_way.len() >= FLIGHTS_MAX {
            return Boarding::Alone;
        }
        let flight = Arc::new(Flight::default());
        under_way.insert(*key, Arc::clone(&flight));
        Boarding::Lead(Lead {
            flights: Arc::clone(self),
            key: *key,
            flight,
            landing: Landing::Abandoned,
        })
    }

    /// Returns how many answers have been made. Who looked into the store before the last of them
    /// looks again before it makes one more.
    pub(super) fn landed(&self) -> u64 {
        self.landed.load(Ordering::Acquire)
    }

    /// Returns how many answers are being made.
    #[cfg(test)]
    fn len(&self) -> usize {
        lock(&self.under_way).len()
    }
}

/// An answer that is being made.
#[derive(Debug, Default)]
struct Flight {
    state: Mutex<FlightState>,
}

#[derive(Debug, Default)]
struct FlightState {
    landing: Option<Landing>,
    waiting: HashMap<u64, Waker>,
    joined: usize,
    next_id: u64,
}

impl Flight {
    fn join(&self, waiters_max: usize) -> Option<u64> {
        let mut state = lock(&self.state);
        if state.joined >= waiters_max {
            return None;
        }
        state.joined += 1;
        state.next_id += 1;
        Some(state.next_id)
    }

    fn land(&self, landing: Landing) {
        let mut state = lock(&self.state);
        state.landing = Some(landing);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        for waker in waiting.into_values() {
            waker.wake();
        }
    }
}

/// Proves that its bearer makes an answer that others wait for. Dropped before it is
/// [landed](Lead::land), it lets one of them take over.
pub(super) struct Lead {
    flights: Arc<Flights>,
    key: LongStoreKey,
    flight: Arc<Flight>,
    landing: Landing,
}

impl Lead {
    pub(super) fn is_for(&self, key: &LongStoreKey) -> bool {
        self.key == *key
    }

    /// Tells those who wait what became of the answer.
    pub(super) fn land(mut self, landing: Landing, now: Timestamp) {
        if landing == Landing::NotStored {
            self.flights.alone.mark(&self.key, now + ALONE_FOR);
        }
        self.landing = landing;
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.flights.landed.fetch_add(1, Ordering::AcqRel);
        lock(&self.flights.under_way).remove(&self.key);
        self.flight.land(self.landing);
    }
}

impl fmt::Debug for Lead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lead")
    }
}

/// Waits for an answer that another request makes.
#[derive(Debug)]
pub(super) struct Wait {
    flight: Arc<Flight>,
    id: u64,
}

impl Future for Wait {
    type Output = Landing;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Landing> {
        let mut state = lock(&self.flight.state);
        match state.landing {
            Some(landing) => Poll::Ready(landing),
            None => {
                state.waiting.insert(self.id, cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut state = lock(&self.flight.state);
        state.waiting.remove(&self.id);
        state.joined -= 1;
    }
}

/// Remembers for which keys nobody is to wait, in a fixed place: a key that is forgotten is waited
/// for once more, and one that is taken for another is made alone.
struct Alone {
    shelves: Box<[Shelf]>,
}

/// As many marks as lie in one line of memory.
type Shelf = [AtomicU64; 8];

impl Default for Alone {
    fn default() -> Self {
        let shelves = PLACES / 8;
        Self {
            shelves: (0..shelves).map(|_| Shelf::default()).collect(),
        }
    }
}

impl Alone {
    fn mark(&self, key: &LongStoreKey, until: Timestamp) {
        let (shelf, mark) = self.place(key);
        let found = |place: &AtomicU64| place.load(Ordering::Relaxed);
        // In the place that it had before, or of the one that is forgotten soonest.
        let own = shelf.iter().find(|place| found(place) & !SECONDS == mark);
        let place = own.or_else(|| shelf.iter().min_by_key(|place| found(place) & SECONDS));
        if let Some(place) = place {
            place.store(mark | seconds(until), Ordering::Relaxed);
        }
    }

    #[inline]
    fn holds(&self, key: &LongStoreKey, now: Timestamp) -> bool {
        let (shelf, mark) = self.place(key);
        shelf.iter().any(|place| {
            let found = place.load(Ordering::Relaxed);
            found & !SECONDS == mark && found & SECONDS > seconds(now)
        })
    }

    /// Returns a key's shelf, and the half of a mark that tells it from others.
    #[inline]
    fn place(&self, key: &LongStoreKey) -> (&Shelf, u64) {
        let [low, high, _, _, own @ ..] = key.as_bytes().first_chunk::<8>().expect("it has 32");
        let at = usize::from(u16::from_le_bytes([*low, *high]));
        let own = u64::from(u32::from_be_bytes(*own));
        (&self.shelves[at % self.shelves.len()], own << 32)
    }
}

impl fmt::Debug for Alone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Alone")
    }
}

const SECONDS: u64 = u32::MAX as u64;

fn seconds(at: Timestamp) -> u64 {
    at.as_secs() & SECONDS
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each holder leaves a whole state behind, also by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store_key::StoreKeys;

    const NOW: Timestamp = Timestamp::from_secs(1_000);

    fn key(name: u8) -> LongStoreKey {
        let space = StoreKeys::from_secret(&[5; 32]).unwrap().space("f");
        let mut key = space.long();
        key.field(&[name]);
        key.finish()
    }

    fn lead(flights: &Arc<Flights>) -> Lead {
        match flights.board(&key(1), NOW) {
            Boarding::Lead(lead) => lead,
            other => panic!("{other:?}"),
        }
    }

    fn wait(flights: &Arc<Flights>) -> Wait {
        match flights.board(&key(1), NOW) {
            Boarding::Wait(wait) => wait,
            other => panic!("{other:?}"),
        }
    }

    fn poll(wait: &mut Wait) -> Poll<Landing> {
        Pin::new(wait).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn all_but_the_first_wait_and_hear_how_it_went() {
        let flights = Arc::new(Flights::new(10));
        let first = lead(&flights);
        let (mut one, mut two) = (wait(&flights), wait(&flights));
        assert!(poll(&mut one).is_pending());
        first.land(Landing::Stored, NOW);
        assert_eq!(poll(&mut one), Poll::Ready(Landing::Stored));
        assert_eq!(poll(&mut two), Poll::Ready(Landing::Stored));
        assert_eq!(flights.len(), 0);
    }

    #[test]
    fn who_waits_takes_over_from_a_leader_that_is_gone() {
        let flights = Arc::new(Flights::new(10));
        let first = lead(&flights);
        let mut one = wait(&flights);
        drop(first);
        assert_eq!(poll(&mut one), Poll::Ready(Landing::Abandoned));
        drop(lead(&flights));
    }

    #[test]
    fn nobody_waits_for_what_is_none_for_the_store() {
        let flights = Arc::new(Flights::new(10));
        lead(&flights).land(Landing::NotStored, NOW);
        let alone = |at| matches!(flights.board(&key(1), at), Boarding::Alone);
        assert!(alone(NOW) && alone(NOW + Duration::from_secs(4)));
        assert!(!alone(NOW + ALONE_FOR));
        assert!(matches!(flights.board(&key(2), NOW), Boarding::Lead(_)));
    }

    #[test]
    fn as_many_keys_as_lie_on_one_shelf_are_remembered() {
        let alone = Alone {
            shelves: [Shelf::default()].into(),
        };
        for number in 0..8 {
            alone.mark(
                &key(number),
                NOW + Duration::from_secs(u64::from(number) + 1),
            );
        }
        assert!((0..8).all(|number| alone.holds(&key(number), NOW)));
        // One more takes the place of what would be forgotten first.
        alone.mark(&key(8), NOW + ALONE_FOR);
        assert!((1..9).all(|number| alone.holds(&key(number), NOW)));
        assert!(!alone.holds(&key(0), NOW));
    }

    #[test]
    fn more_than_the_bound_do_not_wait() {
        let flights = Arc::new(Flights::new(1));
        let _first = lead(&flights);
        let one = wait(&flights);
        assert!(matches!(flights.board(&key(1), NOW), Boarding::Alone));
        drop(one);
        wait(&flights);
    }

    #[test]
    fn a_wait_that_is_dropped_leaves_no_waker() {
        let flights = Arc::new(Flights::new(10));
        let first = lead(&flights);
        let mut one = wait(&flights);
        assert!(poll(&mut one).is_pending());
        drop(one);
        assert!(lock(&first.flight.state).waiting.is_empty());
        assert_eq!(lock(&first.flight.state).joined, 0);
    }

    #[test]
    fn the_table_of_flights_is_bounded() {
        let flights = Arc::new(Flights::new(10));
        let keys = StoreKeys::from_secret(&[5; 32]).unwrap().space("f");
        let mut space = Vec::new();
        for name in 0..=FLIGHTS_MAX {
            let mut key = keys.long();
            key.field(&name.to_le_bytes());
            space.push(flights.board(&key.finish(), NOW));
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
