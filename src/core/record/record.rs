//! The handle of a request's record.

use std::{
    any::Any,
    borrow::Cow,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use http::Extensions;

use super::{
    outcome::{AuthOutcome, CacheOutcome, RateLimitOutcome},
    slots::{FieldValue, RecordData, StoreCall},
};
use crate::core::http::request_id::RequestId;

/// A handle to the record of the current request.
///
/// The access log inserts the handle into the request's extensions. Each inner layer writes its
/// outcome through the handle, and handlers can add fields. Changes that are made after the record
/// is emitted are lost. Clones share the record.
///
/// ```
/// use portcullis::outcome::RecordHandle;
///
/// let record = RecordHandle::default();
/// record.set_field("order.id", 42_i64);
/// assert_eq!(record.read(|slots| slots.fields().len()), 1);
/// ```
#[derive(Clone)]
pub struct RecordHandle {
    pub(super) sheet: Arc<Sheet<dyn Beside>>,
}

/// The data that layers and handlers write, and the record owner's data, in one allocation.
pub(super) struct Sheet<T: ?Sized> {
    slots: Mutex<RecordData>,
    pub(super) beside: T,
}

/// Data that the record's owner stores next to the slots.
pub(crate) trait Beside: Any + Send + Sync {
    /// Returns the request id, if there is one.
    fn request_id(&self) -> Option<&RequestId>;
}

impl Beside for () {
    fn request_id(&self) -> Option<&RequestId> {
        None
    }
}

/// `true` once this process has created a record. Until then, no request is searched for a handle.
/// Such a search is a large part of the cost of a small layer.
static ARE_KEPT: AtomicBool = AtomicBool::new(false);

impl<T> Sheet<T> {
    #[inline(always)]
    pub(super) fn new(beside: T) -> Self {
        // Load before store, since a store on each request would contend for the cache line. A
        // request with a handle in it is passed on after the store.
        if !ARE_KEPT.load(Ordering::Relaxed) {
            ARE_KEPT.store(true, Ordering::Relaxed);
        }
        let slots = Mutex::default();
        Self { slots, beside }
    }
}

impl<T: ?Sized> Sheet<T> {
    pub(super) fn lock(&self) -> MutexGuard<'_, RecordData> {
        // Each write is one assignment, so a poisoned lock is consistent.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for RecordHandle {
    fn default() -> Self {
        Self {
            sheet: Arc::new(Sheet::new(())),
        }
    }
}

impl RecordHandle {
    /// Returns the handle in a request's extensions, if an access log inserted one.
    #[inline]
    pub fn from_extensions(extensions: &Extensions) -> Option<&Self> {
        if !ARE_KEPT.load(Ordering::Relaxed) {
            return None;
        }
        extensions.get()
    }

    /// Sets the outcome of authentication. Replaces any outcome that was set earlier.
    pub fn set_auth(&self, outcome: AuthOutcome) {
        self.lock().auth = Some(outcome);
    }

    /// Adds the outcome of a rate limiter. A request can pass through several rate limiters.
    pub fn push_rate_limit(&self, outcome: RateLimitOutcome) {
        self.lock().rate_limits.push(outcome);
    }

    /// Sets the outcome of the cache. Replaces any outcome that was set earlier.
    pub fn set_cache(&self, outcome: CacheOutcome) {
        self.lock().cache = Some(outcome);
    }

    /// Sets a custom field. Replaces any field with the same name.
    ///
    /// A record has at most [`RecordData::MAX_FIELDS`] fields. Additional fields are omitted, and
    /// only their number is recorded.
    pub fn set_field(&self, name: impl Into<Cow<'static, str>>, value: impl Into<FieldValue>) {
        self.lock().set_field(name.into(), value.into());
    }

    /// Sets the route that the request matched, in the router's notation, such as `/users/{id}`.
    ///
    /// Do not pass the path, because the number of paths is not bounded. Replaces any route that
    /// was set earlier.
    pub fn set_route(&self, route: impl Into<Cow<'static, str>>) {
        self.lock().route = Some(route.into());
    }

    /// Adds to the number of request-body bytes that were read.
    pub fn add_request_bytes(&self, bytes: u64) {
        let mut slots = self.lock();
        let read = slots.request_bytes.unwrap_or(0);
        slots.request_bytes = Some(read.saturating_add(bytes));
    }

    /// Adds a store call that the request waited for or that failed.
    ///
    /// A record lists at most [`RecordData::MAX_STORE_CALLS`] store calls. Additional calls are
    /// omitted.
    pub fn push_store_call(&self, call: StoreCall) {
        let calls = &mut self.lock().store_calls;
        if calls.len() < RecordData::MAX_STORE_CALLS {
            calls.push(call);
        }
    }

    /// Returns the request id, if an access log has assigned one.
    pub fn request_id(&self) -> Option<RequestId> {
        self.sheet.beside.request_id().cloned()
    }

    /// Calls a function with the data that has been written so far, and returns the function's
    /// result.
    pub fn read<T>(&self, read: impl FnOnce(&RecordData) -> T) -> T {
        read(&self.lock())
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, RecordData> {
        self.sheet.lock()
    }
}

impl fmt::Debug for RecordHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecordHandle")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_written_twice_keeps_its_place_and_the_last_value() {
        let record = RecordHandle::default();
        record.set_field("a", 1_i64);
        record.set_field("b", true);
        record.set_field("a", "two");
        record.read(|slots| {
            assert_eq!(slots.fields()[0], ("a".into(), FieldValue::from("two")));
            assert_eq!(slots.fields().len(), 2);
        });
    }

    #[test]
    fn fields_beyond_the_bound_are_counted_and_left_out() {
        let record = RecordHandle::default();
        for number in 0..40 {
            record.set_field(format!("f{number}"), i64::from(number));
        }
        record.read(|slots| {
            assert_eq!(slots.fields().len(), RecordData::MAX_FIELDS);
            assert_eq!(slots.fields_left_out(), 8);
        });
    }

    #[test]
    fn a_handle_whose_writer_panicked_still_works() {
        let record = RecordHandle::default();
        let clone = record.clone();
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            clone.read(|_| panic!("a custom reader"))
        }));
        record.set_auth(AuthOutcome::Anonymous);
        assert!(record.read(|slots| slots.auth().is_some()));
    }
}
