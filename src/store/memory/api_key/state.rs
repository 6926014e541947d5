//! Key records by id, and the indexes of those records.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use dashmap::DashMap;

use crate::{
    api_key::{
        KeyId, KeyQuery,
        backend::{KeyCount, KeyCreation, KeyUse},
        record::{KeyCursor, KeyPage, ListedKey, StoredKey},
    },
    core::{error::StoreErrorKind, time::Timestamp},
    store::memory::context::MemoryContext,
};

/// Key records by id, and the indexes of those records.
///
/// Requests read only `kept`. Writers hold the lock on `orders`, so that a record and its index
/// entries change atomically.
#[derive(Debug)]
pub(crate) struct ApiKeyTable {
    pub(super) kept: DashMap<KeyId, MemoryRecord>,
    orders: Mutex<Orders>,
    max_keys: usize,
}

#[derive(Debug)]
pub(super) struct MemoryRecord {
    pub(super) record: StoredKey,
    last_used_at: Option<Timestamp>,
    pub(super) uses: u64,
}

#[derive(Debug, Default)]
struct Orders {
    by_creation: BTreeSet<KeyCursor>,
    by_owner: BTreeSet<(String, KeyCursor)>,
    by_end: BTreeSet<(Timestamp, KeyId)>,
}

impl ApiKeyTable {
    pub(crate) fn new(context: &MemoryContext) -> Self {
        Self {
            kept: DashMap::new(),
            orders: Mutex::default(),
            max_keys: context.limits.max_api_keys,
        }
    }

    fn orders(&self) -> MutexGuard<'_, Orders> {
        // No foreign code runs under this lock.
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn create(&self, record: StoredKey) -> Result<(), StoreErrorKind> {
        self.insert(&mut self.orders(), record)
    }

    pub(super) fn create_within(
        &self,
        record: StoredKey,
        max_keys: usize,
    ) -> Result<KeyCreation, StoreErrorKind> {
        let mut orders = self.orders();
        if self.is_full(&orders, &record, max_keys) {
            return Ok(KeyCreation::OwnerLimitReached);
        }
        self.insert(&mut orders, record)?;
        Ok(KeyCreation::Created)
    }

    fn is_full(&self, orders: &Orders, new: &StoredKey, max_keys: usize) -> bool {
        let mut count = KeyCount::new(new.created_at(), max_keys);
        let query = KeyQuery::for_owner(new.owner());
        let full = orders.places(&query).any(|place| {
            let own = self.kept.get(&place.id);
            own.is_some_and(|own| count.is_full_with(&own.record))
        });
        full || count.is_full()
    }

    fn insert(&self, orders: &mut Orders, record: StoredKey) -> Result<(), StoreErrorKind> {
        if self.kept.contains_key(&record.id()) {
            return Err(StoreErrorKind::Conflict);
        }
        if orders.by_creation.len() >= self.max_keys {
            return Err(StoreErrorKind::Full);
        }
        orders.add(&record);
        let kept = MemoryRecord {
            record,
            last_used_at: None,
            uses: 0,
        };
        self.kept.insert(kept.record.id(), kept);
        Ok(())
    }

    pub(super) fn update(&self, record: StoredKey, expected: u64) -> Result<(), StoreErrorKind> {
        let mut orders = self.orders();
        let mut kept = self
            .kept
            .get_mut(&record.id())
            .ok_or(StoreErrorKind::NotFound)?;
        if kept.record.version() != expected {
            return Err(StoreErrorKind::Conflict);
        }
        orders.remove(&kept.record);
        orders.add(&record);
        kept.record = record;
        Ok(())
    }

    pub(super) fn list(&self, query: &KeyQuery) -> KeyPage {
        let limit = query.limit.clamp(1, KeyQuery::MAX_LIMIT);
        let orders = self.orders();
        // One more than the limit, to detect whether there is a next page.
        let mut places: Vec<KeyCursor> = orders.places(query).take(limit + 1).collect();
        let more = places.len() > limit;
        places.truncate(limit);
        let next = places.last().copied().filter(|_| more);
        let keys = places.iter().filter_map(|place| self.listed(place.id));
        KeyPage::new(keys.collect(), next)
    }

    fn listed(&self, id: KeyId) -> Option<ListedKey> {
        let kept = self.kept.get(&id)?;
        Some(ListedKey::new(
            kept.record.clone(),
            kept.last_used_at,
            kept.uses,
        ))
    }

    pub(super) fn record_uses(&self, uses: &[KeyUse]) {
        for one in uses {
            if let Some(mut kept) = self.kept.get_mut(&one.id) {
                kept.last_used_at = kept.last_used_at.max(Some(one.at));
                kept.uses = kept.uses.saturating_add(one.uses);
            }
        }
    }

    pub(super) fn purge(&self, before: Timestamp, max: usize) -> usize {
        let mut orders = self.orders();
        let ended = orders.by_end.iter().take_while(|(end, _)| *end < before);
        let ended: Vec<KeyId> = ended.map(|(_, id)| *id).take(max).collect();
        for id in &ended {
            if let Some((_, kept)) = self.kept.remove(id) {
                orders.remove(&kept.record);
            }
        }
        ended.len()
    }
}

impl Orders {
    fn add(&mut self, record: &StoredKey) {
        let place = KeyCursor::from(record);
        self.by_creation.insert(place);
        self.by_owner.insert((record.owner().to_owned(), place));
        if let Some(end) = record.ended_at() {
            self.by_end.insert((end, record.id()));
        }
    }

    fn remove(&mut self, record: &StoredKey) {
        let place = KeyCursor::from(record);
        self.by_creation.remove(&place);
        self.by_owner.remove(&(record.owner().to_owned(), place));
        if let Some(end) = record.ended_at() {
            self.by_end.remove(&(end, record.id()));
        }
    }

    /// Returns the index entries after a cursor, in order.
    fn places<'a>(&'a self, query: &'a KeyQuery) -> Box<dyn Iterator<Item = KeyCursor> + 'a> {
        let behind = move |place: &KeyCursor| query.after.is_none_or(|after| *place > after);
        match (&query.owner, query.after) {
            (None, None) => Box::new(self.by_creation.iter().copied()),
            (None, Some(after)) => {
                Box::new(self.by_creation.range(after..).copied().filter(behind))
            }
            (Some(owner), after) => {
                let from = after.unwrap_or_else(first_place);
                let places = self.by_owner.range((owner.clone(), from)..);
                let for_owner = places.take_while(move |(own, _)| own == owner);
                Box::new(for_owner.map(|(_, place)| *place).filter(behind))
            }
        }
    }
}

/// Returns a cursor that precedes all records.
fn first_place() -> KeyCursor {
    KeyCursor {
        created_at: Timestamp::EPOCH,
        id: "1000000000000000".parse().expect("this is the least id"),
    }
}
