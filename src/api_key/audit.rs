//! What is told of each change of a key.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::{
    key::KeyId,
    record::{KeyRecord, StoredKey},
};
use crate::time::Timestamp;

/// One change of a key that a manager made.
///
/// It holds no secret, and may be written anywhere.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct KeyEvent {
    /// When.
    pub at: Timestamp,
    /// Who, if the manager was told by `acting_as`.
    pub by: Option<String>,
    /// What was done.
    pub action: KeyAction,
    /// The key, as it is now.
    pub key: StoredKey,
}

/// What was done to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyAction {
    /// It was made.
    Created,
    /// Its name, tier, scopes, times or metadata were changed.
    Updated,
    /// It was switched off for the time being.
    Disabled,
    /// It was switched on again.
    Enabled,
    /// It was switched off for good.
    Revoked,
    /// It was found where it should not be, and switched off for good.
    Leaked,
    /// It is being replaced by another one.
    Rotated {
        /// By which.
        to: KeyId,
    },
}

impl KeyAction {
    /// Returns the action's name, for a log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Disabled => "disabled",
            Self::Enabled => "enabled",
            Self::Revoked => "revoked",
            Self::Leaked => "leaked",
            Self::Rotated { .. } => "rotated",
        }
    }
}

impl fmt::Display for KeyEvent {
    /// Writes the event as one line: who did what to which key of whom.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record: &KeyRecord = &self.key;
        write!(
            f,
            "{} {} key {} of {:?} (version {})",
            self.by.as_deref().unwrap_or("somebody"),
            self.action.as_str(),
            record.display(),
            record.owner(),
            record.version(),
        )
    }
}

/// Hears of changes.
#[derive(Clone, Default)]
pub(super) struct Audit {
    listener: Option<Arc<Hear>>,
}

type Hear = dyn Fn(&KeyEvent) + Send + Sync;

impl Audit {
    pub(super) fn new(listener: impl Fn(&KeyEvent) + Send + Sync + 'static) -> Self {
        Self {
            listener: Some(Arc::new(listener)),
        }
    }

    /// Tells of a change that has been made. Should the listener panic, the change stands: whoever
    /// made it must not take it for failed.
    pub(super) fn tell(&self, event: &KeyEvent) {
        if let Some(listener) = &self.listener {
            let _ = catch_unwind(AssertUnwindSafe(|| listener(event)));
        }
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.listener {
            Some(_) => "Audit(listener)",
            None => "Audit(nobody)",
        })
    }
}
