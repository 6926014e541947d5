//! The handle by which the layers write into the one record of a request.

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

/// A handle on the record of the request at hand.
///
/// The access log puts one into the request's extensions; each layer inside writes its outcome
/// through it, and so may a handler. What is written after the record has been emitted is lost.
/// A clone is the same record.
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

/// What layers and handlers write on, and beside it what whoever keeps the record knows itself: one
/// allocation for both.
pub(super) struct Sheet<T: ?Sized> {
    slots: Mutex<RecordData>,
    pub(super) beside: T,
}

/// Facts that the owner of the record stores beside the slots.
pub(crate) trait Beside: Any + Send + Sync {
    /// Returns the request's name, if it has one.
    fn request_id(&self) -> Option<&RequestId>;
}

impl Beside for () {
    fn request_id(&self) -> Option<&RequestId> {
        None
    }
}

/// Whether a record was ever kept in this process. Where none was, no request is searched for its
/// handle: that is a good part of what a layer costs which does little else.
static ARE_KEPT: AtomicBool = AtomicBool::new(false);

impl<T> Sheet<T> {
    #[inline(always)]
    pub(super) fn new(beside: T) -> Self {
        // A plain load first: a store on each request would take the line from all other cores.
        // Whoever is handed a request with a handle in it sees what was written before that.
        if !ARE_KEPT.load(Ordering::Relaxed) {
            ARE_KEPT.store(true, Ordering::Relaxed);
        }
        let slots = Mutex::default();
        Self { slots, beside }
    }
}

impl<T: ?Sized> Sheet<T> {
    pub(super) fn lock(&self) -> MutexGuard<'_, RecordData> {
        // Each write is one assignment: what a panicking writer left behind is whole.
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
    /// Returns the handle in a request's extensions, if an access log put one there.
    #[inline]
    pub fn from_extensions(extensions: &Extensions) -> Option<&Self> {
        if !ARE_KEPT.load(Ordering::Relaxed) {
            return None;
        }
        extensions.get()
    }

    /// Writes what authentication found. The last word stands.
    pub fn set_auth(&self, outcome: AuthOutcome) {
        self.lock().auth = Some(outcome);
    }

    /// Adds what a limiter decided. A request may pass several.
    pub fn push_rate_limit(&self, outcome: RateLimitOutcome) {
        self.lock().rate_limits.push(outcome);
    }

    /// Writes what the cache did. The last word stands.
    pub fn set_cache(&self, outcome: CacheOutcome) {
        self.lock().cache = Some(outcome);
    }

    /// Writes a field of the handler's own, in the place of one of the same name.
    ///
    /// A record takes [`RecordData::MAX_FIELDS`] fields; further ones are counted and left out.
    pub fn set_field(&self, name: impl Into<Cow<'static, str>>, value: impl Into<FieldValue>) {
        self.lock().set_field(name.into(), value.into());
    }

    /// Writes the route that the request matched, as the router spells it: `/users/{id}`.
    ///
    /// Never the path itself: a route is one of a bounded set of names. The last word stands.
    pub fn set_route(&self, route: impl Into<Cow<'static, str>>) {
        self.lock().route = Some(route.into());
    }

    /// Adds to the bytes of the request's body that were read.
    pub fn add_request_bytes(&self, bytes: u64) {
        let mut slots = self.lock();
        let read = slots.request_bytes.unwrap_or(0);
        slots.request_bytes = Some(read.saturating_add(bytes));
    }

    /// Adds a question to a store that the request waited for, or that the store did not answer.
    ///
    /// A record takes [`RecordData::MAX_STORE_CALLS`] of them; further ones are left out.
    pub fn push_store_call(&self, call: StoreCall) {
        let calls = &mut self.lock().store_calls;
        if calls.len() < RecordData::MAX_STORE_CALLS {
            calls.push(call);
        }
    }

    /// Returns the request's name, if an access log gave it one: to hand it on, or to show it.
    pub fn request_id(&self) -> Option<RequestId> {
        self.sheet.beside.request_id().cloned()
    }

    /// Reads what has been written so far.
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
            clone.read(|_| panic!("a reader of the user's"))
        }));
        record.set_auth(AuthOutcome::Anonymous);
        assert!(record.read(|slots| slots.auth().is_some()));
    }
}
