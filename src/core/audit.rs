//! What an auditor asks for: the events that any layer may tell of.

use std::{
    fmt,
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock},
};

use super::{error::StoreErrorKind, notice, record::AuthDenial};

/// Something that an auditor asks for, beside the records of requests.
///
/// Nothing in it is secret: a key is named by its public id.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuditEvent {
    /// A key was created.
    KeyCreated {
        /// The key's public id.
        key_id: Arc<str>,
        /// Who did it, if that is known.
        by: Option<Arc<str>>,
    },
    /// A key was replaced by another of its line.
    KeyRotated {
        /// The public id of the key that was replaced.
        key_id: Arc<str>,
        /// The public id of the key that replaces it.
        successor: Arc<str>,
        /// Who did it, if that is known.
        by: Option<Arc<str>>,
    },
    /// A key was revoked.
    KeyRevoked {
        /// The key's public id.
        key_id: Arc<str>,
        /// Who did it, if that is known.
        by: Option<Arc<str>>,
    },
    /// A key that was made elsewhere was taken over.
    KeyImported {
        /// The key's public id.
        key_id: Arc<str>,
        /// Who did it, if that is known.
        by: Option<Arc<str>>,
    },
    /// What a key may do, or what is known of it, was changed.
    KeyUpdated {
        /// The key's public id.
        key_id: Arc<str>,
        /// Who did it, if that is known.
        by: Option<Arc<str>>,
    },
    /// A key was switched off for the time being.
    KeyDisabled {
        /// The key's public id.
        key_id: Arc<str>,
        /// Who did it, if that is known.
        by: Option<Arc<str>>,
    },
    /// A key was switched on again.
    KeyEnabled {
        /// The key's public id.
        key_id: Arc<str>,
        /// Who did it, if that is known.
        by: Option<Arc<str>>,
    },
    /// A key was made to end.
    KeyExpired {
        /// The key's public id.
        key_id: Arc<str>,
        /// Who did it, if that is known.
        by: Option<Arc<str>>,
    },
    /// A key was found where it should not be, and switched off for good.
    KeyLeaked {
        /// The key's public id.
        key_id: Arc<str>,
        /// Who did it, if that is known.
        by: Option<Arc<str>>,
    },
    /// Keys that ended long ago were removed.
    KeysPurged {
        /// How many.
        count: u64,
        /// Who did it, if that is known.
        by: Option<Arc<str>>,
    },
    /// What the store says of a key is not what was written there: somebody else wrote it.
    KeyRecordForged {
        /// The key's public id.
        key_id: Arc<str>,
    },
    /// A caller was turned away by authentication.
    AuthDenied {
        /// Why.
        reason: AuthDenial,
        /// The public id of the key, where the whole key was right.
        key_id: Option<Arc<str>>,
        /// The client's address, or its network where addresses are masked.
        client: Option<IpAddr>,
        /// The request's name; empty if no access log gave it one.
        request_id: Arc<str>,
    },
    /// A client was banned.
    BanRaised {
        /// Who, in the words of the policy: a key's public id, or a network.
        subject: Arc<str>,
        /// The policy that bans.
        policy: Arc<str>,
    },
    /// A policy that is only tried out would have denied.
    LimitExceededInShadow {
        /// The policy.
        policy: Arc<str>,
        /// The public id of the caller's key, if it is known.
        key_id: Option<Arc<str>>,
    },
    /// A store has stopped answering.
    StoreDown {
        /// The store's name.
        store: Arc<str>,
        /// How it fails.
        kind: StoreErrorKind,
    },
    /// A store answers again.
    StoreUp {
        /// The store's name.
        store: Arc<str>,
    },
    /// A store answers, but refuses commands: it is full, or a permission is missing.
    ///
    /// One event for each cause, and another once the cause was absent for a minute.
    StoreRejected {
        /// The store's name.
        store: Arc<str>,
        /// The kind of the refusal.
        kind: StoreErrorKind,
        /// The words of the server, of at most 200 characters; empty if the store gave none.
        cause: Arc<str>,
    },
    /// A refresh of a stale cached response in the background failed.
    CacheRefreshFailed {
        /// `error`, `status` (500, 502, 503 or 504) or `timeout`.
        cause: Arc<str>,
    },
    /// Something is configured in a way that cannot be meant.
    ConfigWarning {
        /// What, and what to do about it.
        message: Arc<str>,
    },
}

impl AuditEvent {
    /// Returns the event's name in the log.
    pub fn name(&self) -> &'static str {
        match self {
            Self::KeyCreated { .. } => "portcullis.audit.key_created",
            Self::KeyRotated { .. } => "portcullis.audit.key_rotated",
            Self::KeyRevoked { .. } => "portcullis.audit.key_revoked",
            Self::KeyImported { .. } => "portcullis.audit.key_imported",
            Self::KeyUpdated { .. } => "portcullis.audit.key_updated",
            Self::KeyDisabled { .. } => "portcullis.audit.key_disabled",
            Self::KeyEnabled { .. } => "portcullis.audit.key_enabled",
            Self::KeyExpired { .. } => "portcullis.audit.key_expired",
            Self::KeyLeaked { .. } => "portcullis.audit.key_leaked",
            Self::KeysPurged { .. } => "portcullis.audit.keys_purged",
            Self::KeyRecordForged { .. } => "portcullis.audit.key_record_forged",
            Self::AuthDenied { .. } => "portcullis.audit.auth_denied",
            Self::BanRaised { .. } => "portcullis.audit.ban_raised",
            Self::LimitExceededInShadow { .. } => "portcullis.audit.limit_exceeded_in_shadow",
            Self::StoreDown { .. } => "portcullis.audit.store_down",
            Self::StoreUp { .. } => "portcullis.audit.store_up",
            Self::StoreRejected { .. } => "portcullis.audit.store_rejected",
            Self::CacheRefreshFailed { .. } => "portcullis.audit.cache_refresh_failed",
            Self::ConfigWarning { .. } => "portcullis.audit.config_warning",
        }
    }
}

/// Takes audit events, without making who tells of them wait.
///
/// The access log's queue is one.
pub trait Auditor: fmt::Debug + Send + Sync + 'static {
    /// Takes one event.
    fn audit(&self, event: &AuditEvent);

    /// Returns how many of the events that it took it has lost since.
    fn lost(&self) -> u64 {
        0
    }
}

impl<T: Auditor + ?Sized> Auditor for Arc<T> {
    fn audit(&self, event: &AuditEvent) {
        (**self).audit(event);
    }

    fn lost(&self) -> u64 {
        (**self).lost()
    }
}

/// Where a layer tells its events: an auditor that it was given, by its user or by its gate.
///
/// A clone tells the same auditor, also one that is given later.
#[derive(Clone, Default)]
#[cfg_attr(
    not(any(
        feature = "access-log",
        feature = "api-key",
        feature = "cache",
        feature = "rate-limit"
    )),
    allow(dead_code)
)]
pub(crate) struct Audit {
    auditor: Arc<OnceLock<Arc<dyn Auditor>>>,
}

#[cfg_attr(not(feature = "access-log"), allow(dead_code))]
impl Audit {
    /// Tells this auditor.
    pub(crate) fn to(auditor: impl Auditor) -> Self {
        let audit = Self::default();
        audit.adopt(&(Arc::new(auditor) as Arc<dyn Auditor>));
        audit
    }

    /// Tells this auditor, unless there is one already. Returns whether there was none.
    pub(crate) fn adopt(&self, auditor: &Arc<dyn Auditor>) -> bool {
        self.auditor.set(Arc::clone(auditor)).is_ok()
    }

    /// Returns whether anybody is told.
    #[cfg_attr(not(feature = "rate-limit"), allow(dead_code))]
    pub(crate) fn is_heard(&self) -> bool {
        self.auditor.get().is_some()
    }

    /// Tells of what has happened. Should the auditor panic, what happened stands: whoever did it
    /// must not take it for failed.
    pub(crate) fn tell(&self, event: impl FnOnce() -> AuditEvent) {
        if let Some(auditor) = self.auditor.get() {
            let event = event();
            let _ = catch_unwind(AssertUnwindSafe(|| auditor.audit(&event)));
        }
    }

    /// Tells of what has happened, if anything has. Nothing is asked where nobody is told.
    pub(crate) fn tell_if(&self, event: impl FnOnce() -> Option<AuditEvent>) {
        if self.auditor.get().is_some()
            && let Some(event) = event()
        {
            self.tell(|| event);
        }
    }

    /// Returns how many events the auditor has lost.
    pub(crate) fn lost(&self) -> u64 {
        let lost = |auditor: &Arc<dyn Auditor>| {
            catch_unwind(AssertUnwindSafe(|| auditor.lost())).unwrap_or(0)
        };
        self.auditor.get().map_or(0, lost)
    }

    /// Tells of all notices of this process from now on, too, as long as a clone of this is left.
    pub(crate) fn tell_notices(&self) {
        let auditor = Arc::downgrade(&self.auditor);
        notice::listen(move |message| {
            let Some(auditor) = auditor.upgrade() else {
                return false;
            };
            Self { auditor }.tell(|| AuditEvent::ConfigWarning {
                message: message.into(),
            });
            true
        });
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.auditor.get() {
            Some(_) => "Audit(somebody)",
            None => "Audit(nobody)",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Keeps the names of what it is told, and panics over stores that are down.
    #[derive(Clone, Debug, Default)]
    struct Ears(Arc<Mutex<Vec<AuditEvent>>>);

    impl Auditor for Ears {
        fn audit(&self, event: &AuditEvent) {
            self.0.lock().unwrap().push(event.clone());
            assert!(!matches!(event, AuditEvent::StoreDown { .. }));
        }
    }

    fn up() -> AuditEvent {
        AuditEvent::StoreUp {
            store: "cache".into(),
        }
    }

    #[test]
    fn the_first_auditor_stays_and_all_clones_tell_it() {
        let (audit, first, second) = (Audit::default(), Ears::default(), Ears::default());
        let clone = audit.clone();
        clone.tell(|| unreachable!("nobody is told"));
        assert!(audit.adopt(&(Arc::new(first.clone()) as _)));
        assert!(!audit.adopt(&(Arc::new(second.clone()) as _)));
        clone.tell(up);
        assert_eq!(*first.0.lock().unwrap(), [up()]);
        assert!(second.0.lock().unwrap().is_empty());
    }

    #[test]
    fn an_auditor_that_panics_stops_nobody() {
        let ears = Ears::default();
        let audit = Audit::to(ears.clone());
        audit.tell(|| AuditEvent::StoreDown {
            store: "cache".into(),
            kind: StoreErrorKind::Timeout,
        });
        audit.tell(up);
        assert_eq!(ears.0.lock().unwrap().len(), 2);
    }

    #[test]
    fn notices_are_told_as_long_as_there_is_an_auditor() {
        let ears = Ears::default();
        let audit = Audit::to(ears.clone());
        audit.tell_notices();
        let said = Default::default();
        notice::once(&said, || "a notice from the auditor's test".to_owned());
        drop(audit);
        let said = Default::default();
        notice::once(&said, || {
            "another notice from the auditor's test".to_owned()
        });
        let heard = ears.0.lock().unwrap();
        let ours = |event: &&AuditEvent| match event {
            AuditEvent::ConfigWarning { message } => message.contains("the auditor's test"),
            _ => false,
        };
        assert_eq!(heard.iter().filter(ours).count(), 1);
    }
}
