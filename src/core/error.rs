//! What can go wrong: in a store, and in a configuration.

use std::fmt;

pub use tower::BoxError;

/// Why a store could not answer.
///
/// A store answers `Ok(None)` for what it does not hold; an error always means that the question
/// stays open. A layer never takes one for a "no": authentication answers `503`, a limiter does as
/// its policy says, a cache goes to the handler, a log counts a loss.
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
pub struct StoreError {
    kind: StoreErrorKind,
    #[source]
    source: Option<BoxError>,
}

impl StoreError {
    /// Creates an error of this kind, without a cause.
    pub fn new(kind: StoreErrorKind) -> Self {
        Self { kind, source: None }
    }

    /// Creates an error of this kind, and keeps its cause.
    pub fn with_source(kind: StoreErrorKind, source: impl Into<BoxError>) -> Self {
        Self {
            kind,
            source: Some(source.into()),
        }
    }

    /// Returns what kind of failure this is.
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// Returns whether the same call may succeed a little later.
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

impl From<StoreErrorKind> for StoreError {
    fn from(kind: StoreErrorKind) -> Self {
        Self::new(kind)
    }
}

/// The kinds of failure of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// The backend could not be reached; nothing was done.
    Unavailable,
    /// The backend did not answer in time. Whether it did what was asked is not known: a charge is
    /// never sent again after this.
    Timeout,
    /// What was to be created exists already, or was changed by somebody else meanwhile.
    Conflict,
    /// What was to be changed does not exist.
    NotFound,
    /// The backend holds bytes that are not what this crate wrote.
    Corrupt,
    /// The store has reached a bound that it may not pass by forgetting something.
    Full,
    /// The backend refuses the call: wrong credentials, a missing permission. Nothing was done.
    Misconfigured,
}

impl fmt::Display for StoreErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unavailable => "the store is unavailable",
            Self::Timeout => "the store did not answer in time",
            Self::Conflict => "the store holds this already, or a newer version of it",
            Self::NotFound => "the store does not hold this",
            Self::Corrupt => "the store holds bytes that cannot be read",
            Self::Full => "the store is full",
            Self::Misconfigured => "the store refuses its configuration",
        })
    }
}

/// What is wrong with a configuration: the option, the value that it was given, and what to do.
///
/// Every builder of this crate reports through it, before the first request.
///
/// ```
/// use portcullis::ConfigError;
///
/// let error = ConfigError::new("quota", "0 per 10s", "a limit of zero admits nobody")
///     .fix("give a limit of at least 1, or deny the route in the router");
/// assert_eq!(
///     error.to_string(),
///     "`quota` is `0 per 10s`: a limit of zero admits nobody; \
///      give a limit of at least 1, or deny the route in the router",
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
    /// Creates an error that names an option, the value that it has, and what is wrong with it.
    ///
    /// A secret is never given as `value`: say how long it is.
    pub fn new(option: &'static str, value: impl fmt::Display, problem: impl Into<String>) -> Self {
        Self {
            option,
            value: value.to_string(),
            problem: problem.into(),
            fix: String::new(),
        }
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }

    /// Returns the option's name, as the builder spells it.
    pub fn option(&self) -> &'static str {
        self.option
    }

    /// Returns the value that was refused, in words.
    pub fn value(&self) -> &str {
        &self.value
    }
}
