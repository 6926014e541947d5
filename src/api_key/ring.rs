//! The keys of one service: their format, their peppers and their store.

use std::{fmt, sync::Arc};

use super::{
    digest::{Pepper, Peppers},
    key::KeyFormat,
    store::ApiKeyStore,
};
use crate::{
    error::ConfigError,
    time::{Clock, SystemClock},
};

/// The keys of one service: how they look, what they are digested under, and where they are kept.
///
/// A [`KeyManager`](super::KeyManager) makes keys of it, and an
/// [`ApiKeyLayer`](super::ApiKeyLayer) checks keys against it; what is said here once holds for
/// both. A clone is the same ring.
///
/// ```
/// use portcullis::{api_key::{KeyRing, Pepper}, store::MemoryStore};
///
/// # let secret = [0, 1, 2, 3, 4, 5, 6, 7].repeat(4);
/// let ring = KeyRing::builder("acmepay", MemoryStore::new())
///     .environments(["live", "test"])
///     .pepper(Pepper::new(1, secret)?)
///     .build()?;
/// # let _ = ring;
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct KeyRing {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) format: KeyFormat,
    pub(super) peppers: Peppers,
    pub(super) store: Arc<dyn ApiKeyStore>,
    pub(super) clock: Arc<dyn Clock>,
}

impl KeyRing {
    /// Begins a ring of keys that open with `prefix`: the service's name, 3 to 24 of `a-z`, `0-9`
    /// and inner underscores. Six letters or more keep scanners from false alarms.
    pub fn builder(prefix: impl Into<String>, store: impl ApiKeyStore) -> KeyRingBuilder {
        KeyRingBuilder {
            prefix: prefix.into(),
            environments: vec!["live".to_owned()],
            pepper: None,
            former: Vec::new(),
            unpeppered: false,
            store: Arc::new(store),
            clock: None,
        }
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing")
            .field("format", &self.shared.format)
            .finish_non_exhaustive()
    }
}

/// Builds a [`KeyRing`].
#[must_use]
pub struct KeyRingBuilder {
    prefix: String,
    environments: Vec<String>,
    pepper: Option<Pepper>,
    former: Vec<Pepper>,
    unpeppered: bool,
    store: Arc<dyn ApiKeyStore>,
    clock: Option<Arc<dyn Clock>>,
}

impl KeyRingBuilder {
    /// Sets the environments whose keys are made and accepted here; the first one is that of keys
    /// that name none. `live` alone by default.
    pub fn environments<I>(mut self, environments: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.environments = environments.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the pepper that new keys are digested under.
    pub fn pepper(mut self, pepper: Pepper) -> Self {
        self.pepper = Some(pepper);
        self
    }

    /// Adds a pepper that was in use before: its keys are still accepted.
    pub fn former_pepper(mut self, pepper: Pepper) -> Self {
        self.former.push(pepper);
        self
    }

    /// Says that there is no pepper: keys are digested by SHA-256 alone, and whoever can write to
    /// the store can make keys.
    pub fn without_pepper(mut self) -> Self {
        self.unpeppered = true;
        self
    }

    /// Sets the clock that expiry is told by. The machine's by default.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Returns the ring.
    ///
    /// # Errors
    ///
    /// If the prefix or an environment is out of grammar, if two peppers have one id, or if there
    /// is neither a pepper nor the word that there is none.
    pub fn build(self) -> Result<KeyRing, ConfigError> {
        match (&self.pepper, self.unpeppered) {
            (None, false) => {
                return Err(ConfigError::new(
                    "pepper",
                    "not set",
                    "without one, whoever can write to the store can make keys",
                )
                .fix("give one to `pepper`, or call `without_pepper` to do without"));
            }
            (Some(pepper), true) => {
                return Err(ConfigError::new(
                    "without_pepper",
                    format_args!("called beside pepper {}", pepper.id()),
                    "there is a pepper, and there is none",
                )
                .fix("drop one of the two, or make it a `former_pepper`"));
            }
            (Some(_), false) | (None, true) => {}
        }
        Ok(KeyRing {
            shared: Arc::new(Shared {
                format: KeyFormat::new(&self.prefix, &self.environments)?,
                peppers: Peppers::new(self.pepper, self.former)?,
                store: self.store,
                clock: self.clock.unwrap_or_else(|| Arc::new(SystemClock::new())),
            }),
        })
    }
}

impl fmt::Debug for KeyRingBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRingBuilder")
            .field("prefix", &self.prefix)
            .field("environments", &self.environments)
            .finish_non_exhaustive()
    }
}
