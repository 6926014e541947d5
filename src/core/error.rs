//! Errors of stores and configurations.

use std::{convert::Infallible, fmt};

pub use tower::BoxError;

/// An error that a store reports.
///
/// A store returns `Ok(None)` for a missing entry, so an error always means that the result is
/// unknown. No layer treats an error as a negative result. Authentication responds with `503`, a
/// rate limiter applies its [`OnStoreError`](crate::rate_limit::OnStoreError), a cache calls the
/// handler, and the access log counts a loss.
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
pub struct StoreError {
    kind: StoreErrorKind,
    #[source]
    source: Option<BoxError>,
}

impl StoreError {
    /// Creates an error of this kind without a cause.
    pub fn new(kind: StoreErrorKind) -> Self {
        Self { kind, source: None }
    }

    /// Creates an error of this kind with a cause.
    pub fn with_source(kind: StoreErrorKind, source: impl Into<BoxError>) -> Self {
        Self {
            kind,
            source: Some(source.into()),
        }
    }

    /// Returns the kind of the error.
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// Returns `true` if the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        match self.kind {
            StoreErrorKind::Unavailable | StoreErrorKind::Timeout => true,
            StoreErrorKind::Conflict
            | StoreErrorKind::NotFound
            | StoreErrorKind::Corrupt
            | StoreErrorKind::Full
            | StoreErrorKind::Misconfigured => false,
        }
    }
}

/// Never called. This implementation lets a function accept both a value and any type that converts
/// into the value.
impl From<Infallible> for ConfigError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl From<StoreErrorKind> for StoreError {
    fn from(kind: StoreErrorKind) -> Self {
        Self::new(kind)
    }
}

/// The kind of failure that a [`StoreError`] reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// The store is unavailable. The call was not executed.
    Unavailable,
    /// The call timed out. The store may have executed the call, so a charge that timed out is
    /// never repeated.
    Timeout,
    /// The entry already exists or was changed concurrently.
    Conflict,
    /// The entry does not exist.
    NotFound,
    /// The entry contains bytes that this crate did not write.
    Corrupt,
    /// The store is full and cannot evict anything.
    Full,
    /// The store rejected the call because the credentials are wrong or a permission is missing.
    /// The call was not executed.
    Misconfigured,
}

impl fmt::Display for StoreErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unavailable => "the store is unavailable",
            Self::Timeout => "the store timed out",
            Self::Conflict => "the entry already exists, or has a newer version",
            Self::NotFound => "the entry does not exist",
            Self::Corrupt => "the store contains data that cannot be parsed",
            Self::Full => "the store is full",
            Self::Misconfigured => "the store rejects the configuration",
        })
    }
}

/// An error that reports an invalid configuration. It contains the option, the option's value, the
/// problem and the fix.
///
/// All of this crate's builders return this error before the first request.
///
/// ```
/// use portcullis::ConfigError;
///
/// let error = ConfigError::new("quota", "0 per 10s", "the limit must be at least 1")
///     .fix("increase it, or reject the route in the router");
/// assert_eq!(
///     error.to_string(),
///     "`quota` is `0 per 10s`: the limit must be at least 1; \
///      increase it, or reject the route in the router",
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{option}` is `{value}`: {problem}{}{fix}", if fix.is_empty() { "" } else { "; " })]
pub struct ConfigError {
    option: &'static str,
    value: String,
    problem: String,
    fix: String,
}

impl ConfigError {
    /// Creates an error from an option, its value, and the problem.
    ///
    /// Never pass a secret as `value`; describe its length instead.
    pub fn new(option: &'static str, value: impl fmt::Display, problem: impl Into<String>) -> Self {
        Self {
            option,
            value: value.to_string(),
            problem: problem.into(),
            fix: String::new(),
        }
    }

    /// Adds the fix to the error.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }

    /// Returns the name of the option, as spelled in the builder.
    pub fn option(&self) -> &'static str {
        self.option
    }

    /// Returns the rejected value as a string.
    pub fn value(&self) -> &str {
        &self.value
    }
}
