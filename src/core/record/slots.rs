//! The contents of a request's record.

use std::{borrow::Cow, time::Duration};

use smallvec::SmallVec;

use super::outcome::{AuthOutcome, CacheOutcome, RateLimitOutcome};
use crate::core::error::StoreErrorKind;

/// The data that the layers and the handler recorded about a request.
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
    /// The maximum number of custom fields in a record.
    pub const MAX_FIELDS: usize = 32;

    /// The maximum number of store calls listed in a record.
    pub const MAX_STORE_CALLS: usize = 16;

    /// Returns the outcome of authentication, if the request passed through an API key layer.
    pub fn auth(&self) -> Option<&AuthOutcome> {
        self.auth.as_ref()
    }

    /// Returns the outcome of each rate limiter, outermost first.
    pub fn rate_limits(&self) -> &[RateLimitOutcome] {
        &self.rate_limits
    }

    /// Returns the outcome of the cache, if the request reached a cache.
    pub fn cache(&self) -> Option<&CacheOutcome> {
        self.cache.as_ref()
    }

    /// Returns the route that the request matched, if an inner layer or the handler has set it.
    pub fn route(&self) -> Option<&str> {
        self.route.as_deref()
    }

    /// Returns the number of request-body bytes that were read, if they were counted.
    pub fn request_bytes(&self) -> Option<u64> {
        self.request_bytes
    }

    /// Returns the store calls that the request waited for and the store calls that failed. Calls
    /// that an in-memory store completes immediately are not included.
    pub fn store_calls(&self) -> &[StoreCall] {
        &self.store_calls
    }

    /// Returns the custom fields in the order in which they were first set.
    pub fn fields(&self) -> &[(Cow<'static, str>, FieldValue)] {
        &self.fields
    }

    /// Returns the number of omitted custom fields.
    pub fn fields_left_out(&self) -> u32 {
        self.fields_left_out
    }

    pub(super) fn set_field(&mut self, name: Cow<'static, str>, value: FieldValue) {
        if value == FieldValue::Null {
            self.fields.retain(|(own, _)| *own != name);
        } else if let Some((_, old)) = self.fields.iter_mut().find(|(own, _)| *own == name) {
            *old = value;
        } else if self.fields.len() < Self::MAX_FIELDS {
            self.fields.push((name, value));
        } else {
            self.fields_left_out += 1;
        }
    }
}

/// A store call that a layer made for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreCall {
    /// The layer that made the call: `api_key`, `rate_limit` or `cache`.
    pub layer: &'static str,
    /// The duration of the call, if the request waited for it.
    pub duration: Option<Duration>,
    /// The kind of failure, if the call failed.
    pub error: Option<StoreErrorKind>,
}

impl StoreCall {
    /// Creates a store call from the layer, the duration and the kind of failure.
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

/// The value of a custom field.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum FieldValue {
    /// A string.
    Text(Cow<'static, str>),
    /// An integer.
    Int(i64),
    /// A floating-point number. Infinities and NaN are written as `null`.
    Float(f64),
    /// A Boolean.
    Bool(bool),
    /// No value, converted from `None`. The field is omitted from the record.
    Null,
}
