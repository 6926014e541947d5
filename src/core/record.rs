//! What the layers say of a request: the outcome types, and the handle by which they write them
//! into the one record that the access log keeps.

use std::{
    any::Any,
    borrow::Cow,
    fmt, mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::Extensions;
use smallvec::SmallVec;

use super::{error::StoreErrorKind, http::request_id::RequestId, identity::Identity};

/// A handle on the record of the request at hand.
///
/// The access log puts one into the request's extensions; each layer inside writes its outcome
/// through it, and so may a handler. What is written after the record has been emitted is lost.
/// A clone is the same record.
///
/// ```
/// use portcullis::RecordHandle;
///
/// let record = RecordHandle::default();
/// record.set_field("order.id", 42_i64);
/// assert_eq!(record.read(|slots| slots.fields().len()), 1);
/// ```
#[derive(Clone)]
pub struct RecordHandle {
    sheet: Arc<Sheet<dyn Beside>>,
}

/// What layers and handlers write on, and beside it what whoever keeps the record knows itself: one
/// allocation for both.
struct Sheet<T: ?Sized> {
    slots: Mutex<RecordSlots>,
    beside: T,
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

/// A record in the making, as whoever keeps it holds it.
#[cfg_attr(not(feature = "access-log"), allow(dead_code))]
pub(crate) struct KeptRecord<T> {
    sheet: Arc<Sheet<T>>,
}

#[cfg_attr(not(feature = "access-log"), allow(dead_code))]
impl<T: Beside + 'static> KeptRecord<T> {
    /// Begins the record of a request of which this is known.
    // Inlined, so that it is built in its allocation.
    #[inline(always)]
    pub(crate) fn new(beside: T) -> Self {
        Self {
            sheet: Arc::new(Sheet::new(beside)),
        }
    }

    /// Returns what the layers and the handler write through.
    pub(crate) fn handle(&self) -> RecordHandle {
        RecordHandle {
            sheet: self.sheet.clone(),
        }
    }

    /// Returns what is known beside what is written.
    pub(crate) fn beside(&self) -> &T {
        &self.sheet.beside
    }

    /// Takes what has been written: the record is about to be emitted.
    pub(crate) fn take(&self) -> RecordSlots {
        mem::take(&mut *self.sheet.lock())
    }
}

/// Whether a record was ever kept in this process. Where none was, no request is searched for its
/// handle: that is a good part of what a layer costs which does little else.
static ARE_KEPT: AtomicBool = AtomicBool::new(false);

impl<T> Sheet<T> {
    #[inline(always)]
    fn new(beside: T) -> Self {
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
    fn lock(&self) -> MutexGuard<'_, RecordSlots> {
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
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        if !ARE_KEPT.load(Ordering::Relaxed) {
            return None;
        }
        extensions.get()
    }

    /// Returns the facts beside the slots, if they are of this type.
    #[cfg_attr(not(feature = "access-log"), allow(dead_code))]
    pub(crate) fn beside<T: Beside>(&self) -> Option<&T> {
        (&self.sheet.beside as &dyn Any).downcast_ref()
    }

    /// Writes what authentication found. The last word stands.
    pub fn set_auth(&self, outcome: AuthOutcome) {
        self.lock().auth = Some(outcome);
    }

    /// Adds what a limiter decided. A request may pass several.
    pub fn push_rate_limit(&self, outcome: RateLimitOutcome) {
        self.lock().rate_limits.push(outcome);
    }

    /// Adds the decision of a limiter, and returns its place, by which the limiter finds it again.
    #[cfg_attr(not(feature = "rate-limit"), allow(dead_code))]
    pub(crate) fn enter_rate_limit(&self, outcome: RateLimitOutcome) -> RecordedRateLimit {
        let entered = &mut self.lock().rate_limits;
        let index = entered.len();
        entered.push(outcome);
        RecordedRateLimit {
            record: self.clone(),
            index,
        }
    }

    /// Writes what the cache did. The last word stands.
    pub fn set_cache(&self, outcome: CacheOutcome) {
        self.lock().cache = Some(outcome);
    }

    /// Amends what the cache wrote, if it wrote anything.
    #[cfg_attr(not(feature = "cache"), allow(dead_code))]
    pub(crate) fn amend_cache(&self, amend: impl FnOnce(&mut CacheOutcome)) {
        if let Some(outcome) = &mut self.lock().cache {
            amend(outcome);
        }
    }

    /// Writes a field of the handler's own, in the place of one of the same name.
    ///
    /// A record takes [`RecordSlots::FIELDS_MAX`] fields; further ones are counted and left out.
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
    /// A record takes [`RecordSlots::STORE_CALLS_MAX`] of them; further ones are left out.
    pub fn push_store_call(&self, call: StoreCall) {
        let calls = &mut self.lock().store_calls;
        if calls.len() < RecordSlots::STORE_CALLS_MAX {
            calls.push(call);
        }
    }

    /// Returns the request's name, if an access log gave it one: to hand it on, or to show it.
    pub fn request_id(&self) -> Option<RequestId> {
        self.sheet.beside.request_id().cloned()
    }

    /// Reads what has been written so far.
    pub fn read<T>(&self, read: impl FnOnce(&RecordSlots) -> T) -> T {
        read(&self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, RecordSlots> {
        self.sheet.lock()
    }
}

impl fmt::Debug for RecordHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecordHandle")
    }
}

/// The place of a limiter's outcome in the record of a request.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "rate-limit"), allow(dead_code))]
pub(crate) struct RecordedRateLimit {
    record: RecordHandle,
    index: usize,
}

#[cfg_attr(not(feature = "rate-limit"), allow(dead_code))]
impl RecordedRateLimit {
    /// Returns the outcome, unless the record has been emitted.
    pub(crate) fn outcome(&self) -> Option<RateLimitOutcome> {
        self.record
            .read(|slots| slots.rate_limits.get(self.index).cloned())
    }
}

/// What the layers and the handler have written of one request.
#[derive(Debug, Default)]
pub struct RecordSlots {
    auth: Option<AuthOutcome>,
    rate_limits: SmallVec<[RateLimitOutcome; 2]>,
    cache: Option<CacheOutcome>,
    route: Option<Cow<'static, str>>,
    request_bytes: Option<u64>,
    store_calls: Vec<StoreCall>,
    fields: Vec<(Cow<'static, str>, FieldValue)>,
    fields_left_out: u32,
}

impl RecordSlots {
    /// The most fields of a handler's own that one record takes.
    pub const FIELDS_MAX: usize = 32;

    /// The most questions to stores that one record takes.
    pub const STORE_CALLS_MAX: usize = 16;

    /// Returns what authentication found, if it stood in the request's way.
    pub fn auth(&self) -> Option<&AuthOutcome> {
        self.auth.as_ref()
    }

    /// Returns what each limiter decided, outermost first.
    pub fn rate_limits(&self) -> &[RateLimitOutcome] {
        &self.rate_limits
    }

    /// Returns what the cache did, if the request came as far.
    pub fn cache(&self) -> Option<&CacheOutcome> {
        self.cache.as_ref()
    }

    /// Returns the route that the request matched, if somebody inside said so.
    pub fn route(&self) -> Option<&str> {
        self.route.as_deref()
    }

    /// Returns how many bytes of the request's body were read, if somebody inside counted them.
    pub fn request_bytes(&self) -> Option<u64> {
        self.request_bytes
    }

    /// Returns the questions to stores that the request waited for, and those that were not answered.
    /// What a store in this process answers at once is not among them.
    pub fn store_calls(&self) -> &[StoreCall] {
        &self.store_calls
    }

    /// Returns the handler's own fields, in the order in which they were first written.
    pub fn fields(&self) -> &[(Cow<'static, str>, FieldValue)] {
        &self.fields
    }

    /// Returns how many fields found no place.
    pub fn fields_left_out(&self) -> u32 {
        self.fields_left_out
    }

    fn set_field(&mut self, name: Cow<'static, str>, value: FieldValue) {
        if let Some((_, old)) = self.fields.iter_mut().find(|(own, _)| *own == name) {
            *old = value;
        } else if self.fields.len() < Self::FIELDS_MAX {
            self.fields.push((name, value));
        } else {
            self.fields_left_out += 1;
        }
    }
}

/// A question to a store, for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreCall {
    /// The layer that asked: `api_key`, `rate_limit` or `cache`.
    pub layer: &'static str,
    /// How long the answer took, if it was waited for.
    pub duration: Option<Duration>,
    /// How the store failed, if it did.
    pub error: Option<StoreErrorKind>,
}

impl StoreCall {
    /// Creates a question of this layer that was answered after so long, or failed so.
    pub fn new(
        layer: &'static str,
        duration: impl Into<Option<Duration>>,
        error: impl Into<Option<StoreErrorKind>>,
    ) -> Self {
        Self {
            layer,
            duration: duration.into(),
            error: error.into(),
        }
    }
}

/// The value of a handler's own field.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum FieldValue {
    /// Text.
    Text(Cow<'static, str>),
    /// A whole number.
    Int(i64),
    /// A number. Infinities and NaN are written as `null`.
    Float(f64),
    /// True or false.
    Bool(bool),
}

impl From<&'static str> for FieldValue {
    fn from(value: &'static str) -> Self {
        Self::Text(Cow::Borrowed(value))
    }
}

impl From<String> for FieldValue {
    fn from(value: String) -> Self {
        Self::Text(Cow::Owned(value))
    }
}

impl From<i64> for FieldValue {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<u32> for FieldValue {
    fn from(value: u32) -> Self {
        Self::Int(i64::from(value))
    }
}

impl From<f64> for FieldValue {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<bool> for FieldValue {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

/// What authentication found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AuthOutcome {
    /// The caller is known.
    Allowed(Identity),
    /// Nothing was presented, and nothing was required.
    Anonymous,
    /// The caller was turned away.
    Denied {
        /// Why, for the operator's eyes; the caller is told less.
        reason: AuthDenial,
        /// The public id of the key, where the whole key was right.
        key_id: Option<Arc<str>>,
    },
    /// The store of keys could not say.
    StoreFailed(StoreErrorKind),
}

impl AuthOutcome {
    /// Returns the outcome's name in the record.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Allowed(_) => "allowed",
            Self::Anonymous => "anonymous",
            Self::Denied { .. } => "denied",
            Self::StoreFailed(_) => "error",
        }
    }
}

/// Why a caller was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AuthDenial {
    /// No key was presented.
    Missing,
    /// Two keys, or a key in two places.
    Ambiguous,
    /// Not a key of ours: its form or its checksum is wrong.
    Malformed,
    /// A well-formed key that the store does not know, or whose secret is wrong.
    Unknown,
    /// The key's time is over.
    Expired,
    /// The key's time has not begun.
    NotYetValid,
    /// The key was revoked.
    Revoked,
    /// The key is switched off for the time being.
    Disabled,
    /// The key lacks a scope.
    MissingScope,
    /// The key may not be used from this address, origin or method.
    Restricted,
    /// The client has presented too many wrong keys.
    TooManyFailures,
}

impl AuthDenial {
    /// Returns the reason's name in the record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Ambiguous => "ambiguous",
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Revoked => "revoked",
            Self::Disabled => "disabled",
            Self::MissingScope => "missing_scope",
            Self::Restricted => "restricted",
            Self::TooManyFailures => "too_many_failures",
        }
    }
}

/// What a limiter decided. Also in the extensions of the response, where the limiter puts it when
/// it denies, and when a record is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateLimitOutcome {
    /// What was decided.
    pub decision: RateLimitDecision,
    /// What each policy said, in the order of the configuration.
    pub policies: SmallVec<[PolicyOutcome; 2]>,
    /// How long the request was made to wait for its turn in a queue, before it went on.
    pub delayed: Duration,
}

impl RateLimitOutcome {
    /// Creates an outcome.
    pub fn new(
        decision: RateLimitDecision,
        policies: impl IntoIterator<Item = PolicyOutcome>,
    ) -> Self {
        Self {
            decision,
            policies: policies.into_iter().collect(),
            delayed: Duration::ZERO,
        }
    }
}

#[cfg_attr(not(feature = "rate-limit"), allow(dead_code))]
impl RateLimitOutcome {
    /// Creates the outcome of a limiter with one policy.
    #[inline]
    pub(crate) fn of_one(decision: RateLimitDecision, policy: PolicyOutcome) -> Self {
        let mut policies = SmallVec::new();
        policies.push(policy);
        Self {
            decision,
            policies,
            delayed: Duration::ZERO,
        }
    }
}

/// The decisions of a limiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RateLimitDecision {
    /// The request was admitted, and charged.
    Allowed,
    /// The request was turned away, and charged to nobody.
    Denied,
    /// No policy applied to the request.
    Skipped,
    /// The store failed; a local one was asked in its place, and admitted and charged the request.
    LocallyAllowed(StoreErrorKind),
    /// The store failed; a local one was asked in its place, and turned the request away.
    LocallyDenied(StoreErrorKind),
    /// The store failed, and the policy admits then.
    FailedOpen(StoreErrorKind),
    /// The store failed, and the policy turns away then.
    FailedClosed(StoreErrorKind),
}

impl RateLimitDecision {
    /// Returns the decision's name in the record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "limited",
            Self::Skipped => "skipped",
            Self::LocallyAllowed(_) => "local_allowed",
            Self::LocallyDenied(_) => "local_limited",
            Self::FailedOpen(_) => "error_open",
            Self::FailedClosed(_) => "error_closed",
        }
    }

    /// Returns how the store failed, if it did.
    pub fn store_error(self) -> Option<StoreErrorKind> {
        match self {
            Self::LocallyAllowed(kind)
            | Self::LocallyDenied(kind)
            | Self::FailedOpen(kind)
            | Self::FailedClosed(kind) => Some(kind),
            Self::Allowed | Self::Denied | Self::Skipped => None,
        }
    }
}

/// What one policy said of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PolicyOutcome {
    /// The policy's name.
    pub policy: Arc<str>,
    /// How much the policy admits in a window.
    pub limit: u64,
    /// How much is left of it now; never more than the limit.
    pub remaining: u64,
    /// Whether this policy denied.
    pub denied: bool,
    /// How long until the same request would be admitted. `None` if it was, and if it never will.
    pub retry_after: Option<Duration>,
    /// How long until the quota is whole again, if nothing more is spent.
    pub reset_after: Duration,
}

impl PolicyOutcome {
    /// Creates what a policy says that admits.
    pub fn allowed(policy: Arc<str>, limit: u64, remaining: u64, reset_after: Duration) -> Self {
        Self {
            policy,
            limit,
            remaining,
            denied: false,
            retry_after: None,
            reset_after,
        }
    }

    /// Creates what a policy says that denies.
    pub fn denied(
        policy: Arc<str>,
        limit: u64,
        remaining: u64,
        retry_after: Option<Duration>,
        reset_after: Duration,
    ) -> Self {
        Self {
            policy,
            limit,
            remaining,
            denied: true,
            retry_after,
            reset_after,
        }
    }
}

/// What the cache did. Also in the extensions of the response.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheOutcome {
    /// Where the answer came from.
    pub source: CacheSource,
    /// Why it was not answered from the store, or not stored, in the words of RFC 9211 where it
    /// has some.
    pub detail: Option<&'static str>,
    /// For how many seconds the answer stays fresh; negative once it is stale.
    pub ttl_secs: Option<i64>,
    /// Whether the answer is being stored.
    pub stored: bool,
    /// Whether the request waited for another one's answer.
    pub collapsed: bool,
    /// The time that the request waited for the response to another one, whether or not it was used.
    pub waited: Option<Duration>,
    /// A part of the digest under which the store was asked first: equal for requests that may have
    /// the same answer. Nothing can be read back from it.
    pub key_hash: Option<[u8; 8]>,
}

impl CacheOutcome {
    /// Creates an outcome that says where the answer came from, and no more.
    pub fn new(source: CacheSource) -> Self {
        Self {
            source,
            detail: None,
            ttl_secs: None,
            stored: false,
            collapsed: false,
            waited: None,
            key_hash: None,
        }
    }
}

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CacheSource {
    /// From the store, fresh: the handler was not called.
    Hit,
    /// From the store, stale: allowed by the response or the configuration.
    Stale,
    /// From the store, after the handler said that nothing has changed.
    Revalidated,
    /// From the handler: the store had nothing that fits.
    Miss,
    /// From the handler: the request was none for the cache.
    Bypass,
    /// From the handler: the store failed.
    StoreFailed(StoreErrorKind),
}

impl CacheSource {
    /// Returns the source's name in the record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Stale => "stale",
            Self::Revalidated => "revalidated",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
            Self::StoreFailed(_) => "error",
        }
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
            assert_eq!(slots.fields().len(), RecordSlots::FIELDS_MAX);
            assert_eq!(slots.fields_left_out(), 8);
        });
    }

    #[test]
    fn what_is_taken_is_gone_from_the_handle() {
        struct Named(RequestId);

        impl Beside for Named {
            fn request_id(&self) -> Option<&RequestId> {
                Some(&self.0)
            }
        }

        let kept = KeptRecord::new(Named(RequestId::own([b'0'; 36])));
        let record = kept.handle();
        record.set_route("/users/{id}");
        record.add_request_bytes(2);
        record.add_request_bytes(3);
        let slots = kept.take();
        assert_eq!(kept.beside().0.as_str(), "0".repeat(36));
        assert_eq!(record.request_id().unwrap().as_str(), "0".repeat(36));
        assert_eq!(slots.route(), Some("/users/{id}"));
        assert_eq!(slots.request_bytes(), Some(5));
        assert_eq!(record.read(|slots| slots.request_bytes()), None);
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
