//! Record lookups: the cache of this process and one shared store request per record.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use super::flight::{FindResult, RecordFlight};
use crate::{
    api_key::{
        key::format::KeyId,
        record::record::StoredKey,
        ring::change_feed::{ChangeNotifications, Listener},
        store::ApiKeyStore,
    },
    core::{
        error::StoreError,
        inherited_clock::InheritedClock,
        record::RecordHandle,
        single_flight::{FlightTable, FlightWaiter},
        store_api::{store_future::ReadyOrPending, store_monitor::StoreWatch, timeout::Deadline},
        ttl_map::TtlMap,
    },
};

/// The number of tables, each with its own lock.
const TABLES: usize = 16;

/// The capacity and the time to live of a ring's record cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// The maximum number of cached records.
    pub(crate) max_records: usize,
    /// The time to live, or `None` for the default of the store's change notifications.
    pub(crate) records_for: Option<Duration>,
}

/// The maximum time to live, which is also the default if the store announces changes.
pub(crate) const RECORDS_FOR_MAX: Duration = Duration::from_secs(10);

/// Finds records in the cache or the store.
pub(crate) struct Lookup {
    store: Arc<dyn ApiKeyStore>,
    watch: StoreWatch,
    deadline: Deadline,
    clock: Arc<InheritedClock>,
    feed: ChangeNotifications,
    /// The time to live of cached records, or zero to disable the cache.
    records_for: Duration,
    tables: [Mutex<RecordTable>; TABLES],
}

struct RecordTable {
    records: TtlMap<KeyId, StoredKey>,
    flights: FlightTable<KeyId, RecordFlight>,
}

/// An immediate result, or a wait for the store.
#[derive(Debug)]
pub(crate) enum LookupReply {
    Now(Result<Option<StoredKey>, StoreError>),
    Later(RecordWait),
}

impl Lookup {
    pub(crate) fn new(
        store: Arc<dyn ApiKeyStore>,
        clock: Arc<InheritedClock>,
        memory: Memory,
        watch: StoreWatch,
        deadline: Deadline,
    ) -> Arc<Self> {
        let feed = store.changes();
        let records_for = match (&feed, memory.records_for) {
            (ChangeNotifications::Immediate, _) | (ChangeNotifications::None, None) => {
                Duration::ZERO
            }
            (ChangeNotifications::Feed(_), None) => RECORDS_FOR_MAX,
            (ChangeNotifications::Feed(_) | ChangeNotifications::None, Some(duration)) => duration,
        };
        let max_table_records = (memory.max_records / TABLES).max(1);
        let lookup = Arc::new(Self {
            store,
            watch,
            deadline,
            clock,
            feed,
            records_for,
            tables: std::array::from_fn(|_| {
                Mutex::new(RecordTable {
                    records: TtlMap::new(max_table_records),
                    // The number of flights is limited by the number of waiting requests.
                    flights: FlightTable::new(usize::MAX),
                })
            }),
        });
        if let ChangeNotifications::Feed(changes) = &lookup.feed {
            let listener: Arc<dyn Listener> = lookup.clone();
            changes.listen(Arc::downgrade(&listener));
        }
        lookup
    }

    /// Returns `true` if the store announces changes by other processes, with which it is therefore
    /// shared.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.feed, ChangeNotifications::Feed(_))
    }

    /// Returns a result without a request to a server, either from an in-memory store or from the
    /// cache. `None` means that the store must be queried.
    pub(super) fn at_hand(
        self: &Arc<Self>,
        id: KeyId,
        record: impl FnOnce() -> Option<RecordHandle>,
    ) -> Option<LookupReply> {
        if let ChangeNotifications::Immediate = self.feed {
            return Some(self.ask(id, record));
        }
        if !self.remembers() {
            return None;
        }
        let now = self.clock.now();
        let record = self.table(id).records.get(&id, now).cloned()?;
        Some(LookupReply::Now(Ok(Some(record))))
    }

    /// Joins a concurrent request for the same record.
    pub(crate) fn join(self: &Arc<Self>, id: KeyId) -> Option<RecordWait> {
        let table = self.table(id);
        let flight = table.flights.get(&id)?;
        Some(self.board(id, flight))
    }

    /// Queries the store on behalf of the request with this access-log record.
    pub(crate) fn ask(
        self: &Arc<Self>,
        id: KeyId,
        record: impl FnOnce() -> Option<RecordHandle>,
    ) -> LookupReply {
        let result = self.deadline.bound(self.store.find(id));
        let result = self.watch.over(result, record);
        let question = match result.into_ready() {
            ReadyOrPending::Ready(result) => return LookupReply::Now(result),
            ReadyOrPending::Pending(question) => question,
        };
        let mut table = self.table(id);
        if let Some(flight) = table.flights.get(&id) {
            // Another request started a query in the meantime. Drop this query without polling it.
            return LookupReply::Later(self.board(id, flight));
        }
        let flight = Arc::new(RecordFlight::new(question));
        table.flights.begin(id, || Arc::clone(&flight));
        LookupReply::Later(self.board(id, &flight))
    }

    fn board(self: &Arc<Self>, id: KeyId, flight: &Arc<RecordFlight>) -> RecordWait {
        RecordWait {
            waiter: flight.join(),
            joined: JoinedFlight {
                lookup: Arc::clone(self),
                flight: Arc::clone(flight),
                id,
            },
        }
    }

    /// Caches the record of a flight. If the record was invalidated in the meantime, the flight is
    /// no longer in the table, and the record is not cached.
    fn land(&self, id: KeyId, flight: &Arc<RecordFlight>, result: &FindResult) {
        let mut table = self.table(id);
        if !table.flights.remove(&id, flight) {
            return;
        }
        if let (Ok(Some(record)), true) = (result, self.remembers()) {
            let now = self.clock.now();
            let expires_at = now + self.records_for;
            table.records.insert(id, record.clone(), expires_at, now);
        }
    }

    /// Removes a flight that a waiter has left, if that waiter was the last one. Otherwise, the
    /// abandoned query would give a much later request an outdated result. Requests join under the
    /// lock of the table.
    fn leave(&self, id: KeyId, flight: &Arc<RecordFlight>) {
        let mut table = self.table(id);
        if !flight.has_waiters() {
            table.flights.remove(&id, flight);
        }
    }

    fn remembers(&self) -> bool {
        let announced = match &self.feed {
            ChangeNotifications::Immediate => false,
            ChangeNotifications::Feed(changes) => changes.is_connected(),
            ChangeNotifications::None => true,
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

impl Listener for Lookup {
    /// Invalidates a record. Current waiters still receive the result of a concurrent query; later
    /// requests start a new one.
    fn forget(&self, id: KeyId) {
        let mut table = self.table(id);
        table.records.remove(&id);
        let flight = table.flights.take(&id);
        drop(table);
        drop(flight);
    }

    fn forget_all(&self) {
        for table in &self.tables {
            let mut table = lock(table);
            table.records.clear();
            let flights = table.flights.take_all();
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

/// Waits for a record together with all other requests for it.
pub(crate) struct RecordWait {
    // In this order: the waiter leaves before the flight is looked at.
    waiter: FlightWaiter<FindResult>,
    joined: JoinedFlight,
}

/// Removes the flight from its table after the last waiter has left.
struct JoinedFlight {
    lookup: Arc<Lookup>,
    flight: Arc<RecordFlight>,
    id: KeyId,
}

impl Future for RecordWait {
    type Output = Result<Option<StoredKey>, StoreError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let JoinedFlight { lookup, flight, id } = &self.joined;
        flight.poll(&self.waiter, cx).map(|result| {
            lookup.land(*id, flight, &result);
            result.map_err(Into::into)
        })
    }
}

impl Drop for JoinedFlight {
    fn drop(&mut self) {
        // The flight, and with it the store's future, is dropped after this, without the lock: it
        // is foreign code.
        self.lookup.leave(self.id, &self.flight);
    }
}

impl fmt::Debug for RecordWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Wait").field(&self.joined.id).finish()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No foreign code runs under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
