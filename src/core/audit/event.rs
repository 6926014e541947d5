//! Audit events and auditors.

use std::{fmt, net::IpAddr, sync::Arc};

use crate::core::{error::StoreErrorKind, record::AuthDenial};

/// A security-relevant event, reported separately from the request records.
///
/// Events contain no secrets. Keys are identified by their public ids.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuditEvent {
    /// A key was created or changed.
    KeyChanged {
        /// The change.
        action: KeyAction,
        /// The key's public id.
        key_id: Arc<str>,
        /// The actor, if known.
        by: Option<Arc<str>>,
    },
    /// A key was replaced by another key of its [lineage](crate::Identity::lineage).
    KeyRotated {
        /// The public id of the replaced key.
        key_id: Arc<str>,
        /// The public id of the replacement key.
        successor: Arc<str>,
        /// The actor, if known.
        by: Option<Arc<str>>,
    },
    /// Expired and revoked keys were removed.
    KeysPurged {
        /// The number of removed keys.
        count: u64,
        /// The actor, if known.
        by: Option<Arc<str>>,
    },
    /// A key record in the store is invalid: this service did not write the record.
    KeyRecordForged {
        /// The key's public id.
        key_id: Arc<str>,
    },
    /// Authentication rejected a caller.
    AuthDenied {
        /// The reason.
        reason: AuthDenial,
        /// The public id of the key, if the entire key was correct.
        key_id: Option<Arc<str>>,
        /// The client's address, or its network if addresses are masked.
        client: Option<IpAddr>,
        /// The request id. Empty without an access log.
        request_id: Arc<str>,
    },
    /// A client was banned.
    BanRaised {
        /// The banned client, identified by a key's public id or by a network.
        subject: Arc<str>,
        /// The policy that banned the client.
        policy: Arc<str>,
    },
    /// A policy in shadow mode would have rejected a request.
    LimitExceededInShadow {
        /// The policy that is in shadow mode.
        policy: Arc<str>,
        /// The public id of the caller's key, if known.
        key_id: Option<Arc<str>>,
    },
    /// A store has become unavailable.
    StoreDown {
        /// The store's name.
        store: Arc<str>,
        /// The kind of the failure.
        kind: StoreErrorKind,
    },
    /// A store is available again.
    StoreUp {
        /// The store's name.
        store: Arc<str>,
    },
    /// A store is available but rejects commands, because the store is full or a permission is
    /// missing.
    ///
    /// Each cause is reported once, and again if it recurs after a minute without an occurrence.
    StoreRejected {
        /// The store's name.
        store: Arc<str>,
        /// The kind of the rejection.
        kind: StoreErrorKind,
        /// The server's message, truncated to 200 characters. Empty if there is none.
        cause: Arc<str>,
    },
    /// A background refresh of a stale cached response failed.
    CacheRefreshFailed {
        /// The cause: `error`, `status` (500, 502, 503 or 504), or `timeout`.
        cause: Arc<str>,
    },
    /// The configuration is invalid or contradictory.
    ConfigWarning {
        /// A description of the problem and its fix.
        message: Arc<str>,
    },
}

impl AuditEvent {
    /// Returns the name of the event in the log.
    pub fn name(&self) -> &'static str {
        match self {
            Self::KeyChanged { action, .. } => action.event_name(),
            Self::KeyRotated { .. } => "portcullis.audit.key_rotated",
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

/// The creation of a key, or a change to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyAction {
    /// The key was created.
    Created,
    /// A key that another system issued was imported.
    Imported,
    /// The permissions or the metadata of the key were changed.
    Updated,
    /// The key was disabled.
    Disabled,
    /// The key was enabled again.
    Enabled,
    /// The key was expired immediately.
    Expired,
    /// The key was revoked.
    Revoked,
    /// The key was reported as leaked and revoked.
    Leaked,
}

impl KeyAction {
    fn event_name(self) -> &'static str {
        match self {
            Self::Created => "portcullis.audit.key_created",
            Self::Imported => "portcullis.audit.key_imported",
            Self::Updated => "portcullis.audit.key_updated",
            Self::Disabled => "portcullis.audit.key_disabled",
            Self::Enabled => "portcullis.audit.key_enabled",
            Self::Expired => "portcullis.audit.key_expired",
            Self::Revoked => "portcullis.audit.key_revoked",
            Self::Leaked => "portcullis.audit.key_leaked",
        }
    }
}

/// A receiver of audit events.
///
/// The queue of the access log implements this trait. An implementation must not block.
pub trait Auditor: fmt::Debug + Send + Sync + 'static {
    /// Receives an event.
    fn audit(&self, event: &AuditEvent);

    /// Returns the number of received events that were lost. The default implementation returns 0.
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
