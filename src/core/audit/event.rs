//! What an auditor asks for: the events that any layer may tell of.

use std::{fmt, net::IpAddr, sync::Arc};

use crate::core::{error::StoreErrorKind, record::AuthDenial};

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
