//! Finding records: what this process remembers of them, and the one question to the store.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use super::{
    flight::{Answer, RecordFlight, Seat},
    ttl_map::Expiring,
};
use crate::{
    api_key::{
        key::format::KeyId,
        record::record::StoredKey,
        ring::change_feed::{ChangeFeed, Listener},
        store::ApiKeyStore,
    },
    core::{
        error::StoreError,
        record::RecordHandle,
        store_api::{store_monitor::StoreWatch, timeout::Deadline},
        time::Clock,
    },
};

/// Records are spread over so many tables, each under a lock of its own.
const TABLES: usize = 16;

/// What a ring remembers, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// How many records at most.
    pub(crate) records_max: usize,
    /// For how long, if the store announces changes or the ring is told to.
    pub(crate) records_for: Option<Duration>,
}

/// How long records are remembered at most, and by default where changes are announced.
pub(crate) const RECORDS_FOR_MAX: Duration = Duration::from_secs(10);

/// Finds records.
pub(crate) struct Lookup {
    store: Arc<dyn ApiKeyStore>,
    watch: StoreWatch,
    deadline: Deadline,
    clock: Arc<dyn Clock>,
    feed: ChangeFeed,
    /// For how long records are remembered; zero if not at all.
    records_for: Duration,
    tables: [Mutex<RecordTable>; TABLES],
}

struct RecordTable {
    records: Expiring<KeyId, StoredKey>,
    flights: HashMap<KeyId, Arc<RecordFlight>>,
}

/// What the store said at once, or who will know.
#[derive(Debug)]
pub(crate) enum LookupReply {
    Now(Result<Option<StoredKey>, StoreError>),
    Later(RecordWait),
}

impl Lookup {
    pub(crate) fn new(
        store: Arc<dyn ApiKeyStore>,
        clock: Arc<dyn Clock>,
        memory: Memory,
        watch: StoreWatch,
        deadline: Deadline,
    ) -> Arc<Self> {
        let feed = store.changes();
        let records_for = match (&feed, memory.records_for) {
            (ChangeFeed::Immediate, _) | (ChangeFeed::Unannounced, None) => Duration::ZERO,
            (ChangeFeed::Announced(_), None) => RECORDS_FOR_MAX,
            (ChangeFeed::Announced(_) | ChangeFeed::Unannounced, Some(duration)) => duration,
        };
        let table_max = (memory.records_max / TABLES).max(1);
        let lookup = Arc::new(Self {
            store,
            watch,
            deadline,
            clock,
            feed,
            records_for,
            tables: std::array::from_fn(|_| {
                Mutex::new(RecordTable {
                    records: Expiring::new(table_max, records_for),
                    flights: HashMap::new(),
                })
            }),
        });
        if let ChangeFeed::Announced(changes) = &lookup.feed {
            let listener: Arc<dyn Listener> = lookup.clone();
            changes.listen(Arc::downgrade(&listener));
        }
        lookup
    }

    /// Returns whether the store announces changes of other processes: it is not of this one alone.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.feed, ChangeFeed::Announced(_))
    }

    /// Returns what is at hand without asking a server: a store in this process answers, and a
    /// record that is remembered is returned. `None` means that the store must be asked.
    pub(super) fn at_hand(
        self: &Arc<Self>,
        id: KeyId,
        record: impl FnOnce() -> Option<RecordHandle>,
    ) -> Option<LookupReply> {
        if let ChangeFeed::Immediate = self.feed {
            return Some(self.ask(id, record));
        }
        if !self.remembers() {
            return None;
        }
        let now = self.clock.now();
        let record = self.table(id).records.get(&id, now).cloned()?;
        Some(LookupReply::Now(Ok(Some(record))))
    }

    /// Joins those who wait for the same record already.
    pub(crate) fn join(self: &Arc<Self>, id: KeyId) -> Option<RecordWait> {
        let table = self.table(id);
        let flight = table.flights.get(&id)?;
        Some(self.board(id, flight))
    }

    /// Asks the store, on behalf of the request with this record.
    pub(crate) fn ask(
        self: &Arc<Self>,
        id: KeyId,
        record: impl FnOnce() -> Option<RecordHandle>,
    ) -> LookupReply {
        let answer = self.deadline.bound(self.store.find(id));
        let answer = self.watch.over(answer, record);
        let question = match answer.into_ready() {
            Ok(answer) => return LookupReply::Now(answer),
            Err(question) => question,
        };
        match self.table(id).flights.entry(id) {
            // Somebody asked in between; the second question is dropped unasked.
            Entry::Occupied(flight) => LookupReply::Later(self.board(id, flight.get())),
            Entry::Vacant(place) => {
                let flight = place.insert(Arc::new(RecordFlight::new(question)));
                LookupReply::Later(self.board(id, flight))
            }
        }
    }

    fn board(self: &Arc<Self>, id: KeyId, flight: &Arc<RecordFlight>) -> RecordWait {
        flight.passengers.fetch_add(1, Ordering::Relaxed);
        RecordWait {
            lookup: Arc::clone(self),
            seat: flight.take_seat(),
            flight: Arc::clone(flight),
            id,
        }
    }

    /// Remembers what a flight brought, unless somebody said meanwhile that it is out of date: then
    /// the flight is no longer in its table.
    fn land(&self, id: KeyId, flight: &Arc<RecordFlight>, answer: &Answer) {
        let mut table = self.table(id);
        if !table.has(id, flight) {
            return;
        }
        table.flights.remove(&id);
        if let (Ok(Some(record)), true) = (answer, self.remembers()) {
            let now = self.clock.now();
            table.records.insert(id, record.clone(), now);
        }
    }

    /// Lets a passenger off. A question that nobody waits for is dropped: left alone, it would
    /// answer somebody much later with what is true now.
    fn leave(&self, id: KeyId, flight: &Arc<RecordFlight>, seat: Seat) {
        let mut table = self.table(id);
        let was_last = flight.passengers.fetch_sub(1, Ordering::Relaxed) == 1;
        let abandoned = if was_last && table.has(id, flight) {
            table.flights.remove(&id)
        } else {
            None
        };
        drop(table);
        // The store's future is dropped here, without a lock: it is foreign code.
        drop(abandoned);
        flight.leave(seat);
    }

    fn remembers(&self) -> bool {
        let announced = match &self.feed {
            ChangeFeed::Immediate => false,
            ChangeFeed::Announced(changes) => changes.is_connected(),
            ChangeFeed::Unannounced => true,
        };
        announced && !self.records_for.is_zero()
    }

    fn table(&self, id: KeyId) -> MutexGuard<'_, RecordTable> {
        let spread = id.as_str().bytes().fold(0_usize, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(usize::from(byte))
        });
        lock(&self.tables[spread % TABLES])
    }
}

impl RecordTable {
    fn has(&self, id: KeyId, flight: &Arc<RecordFlight>) -> bool {
        let own = self.flights.get(&id);
        own.is_some_and(|own| Arc::ptr_eq(own, flight))
    }
}

impl Listener for Lookup {
    /// Forgets a record. What is being read of it is handed to those who wait already, and to
    /// nobody else: who asks from now on asks anew.
    fn forget(&self, id: KeyId) {
        let mut table = self.table(id);
        table.records.remove(&id);
        let flight = table.flights.remove(&id);
        drop(table);
        drop(flight);
    }

    fn forget_all(&self) {
        for table in &self.tables {
            let mut table = lock(table);
            table.records.clear();
            let flights = std::mem::take(&mut table.flights);
            drop(table);
            drop(flights);
        }
    }
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookup")
            .field("feed", &self.feed)
            .field("records_for", &self.records_for)
            .finish_non_exhaustive()
    }
}

/// Waits for a record that the store has been asked for, with all others who wait for it.
pub(crate) struct RecordWait {
    lookup: Arc<Lookup>,
    flight: Arc<RecordFlight>,
    seat: Seat,
    id: KeyId,
}

impl Future for RecordWait {
    type Output = Result<Option<StoredKey>, StoreError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.flight.poll(self.seat, cx).map(|answer| {
            self.lookup.land(self.id, &self.flight, &answer);
            answer.map_err(Into::into)
        })
    }
}

impl Drop for RecordWait {
    fn drop(&mut self) {
        self.lookup.leave(self.id, &self.flight, self.seat);
    }
}

impl fmt::Debug for RecordWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Wait").field(&self.id).finish()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No foreign code runs under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
