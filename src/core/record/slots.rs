//! What has been written of one request.

use std::{borrow::Cow, time::Duration};

use smallvec::SmallVec;

use super::outcome::{AuthOutcome, CacheOutcome, RateLimitOutcome};
use crate::core::error::StoreErrorKind;

/// What the layers and the handler have written of one request.
#[derive(Debug, Default)]
pub struct RecordData {
    pub(super) auth: Option<AuthOutcome>,
    pub(super) rate_limits: SmallVec<[RateLimitOutcome; 2]>,
    pub(super) cache: Option<CacheOutcome>,
    pub(super) route: Option<Cow<'static, str>>,
    pub(super) request_bytes: Option<u64>,
    pub(super) store_calls: Vec<StoreCall>,
    fields: Vec<(Cow<'static, str>, FieldValue)>,
    fields_left_out: u32,
}

impl RecordData {
    /// The most fields of a handler's own that one record takes.
    pub const MAX_FIELDS: usize = 32;

    /// The most questions to stores that one record takes.
    pub const MAX_STORE_CALLS: usize = 16;

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

    pub(super) fn set_field(&mut self, name: Cow<'static, str>, value: FieldValue) {
        if let Some((_, old)) = self.fields.iter_mut().find(|(own, _)| *own == name) {
            *old = value;
        } else if self.fields.len() < Self::MAX_FIELDS {
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
