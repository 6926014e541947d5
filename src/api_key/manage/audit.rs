//! Audit events of keys and callers.

use std::net::IpAddr;

use crate::{
    api_key::{authenticate::rejection::Denied, key::format::KeyId},
    core::{
        audit::{self, AuditEvent, Auditor},
        record::{AuthOutcome, RecordHandle},
    },
};

/// Sends audit events of keys and callers.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyAudit {
    pub(crate) ground: audit::Audit,
}

impl KeyAudit {
    pub(crate) fn new(auditor: impl Auditor) -> Self {
        Self {
            ground: audit::Audit::to(auditor),
        }
    }

    pub(crate) fn tell(&self, event: impl FnOnce() -> AuditEvent) {
        self.ground.tell(event);
    }

    /// Sends the event of a rejected caller.
    pub(crate) fn tell_denied(
        &self,
        denied: &Denied,
        record: Option<&RecordHandle>,
        client: impl FnOnce() -> Option<IpAddr>,
    ) {
        let AuthOutcome::Denied { reason, key_id } = &denied.outcome else {
            return;
        };
        self.tell(|| {
            let name = record.and_then(RecordHandle::request_id);
            AuditEvent::AuthDenied {
                reason: *reason,
                key_id: key_id.clone(),
                client: client(),
                request_id: name.map_or_else(|| "".into(), |name| name.as_str().into()),
            }
        });
    }
}

/// A change of a key, for the audit trail.
#[derive(Clone, Copy, Debug)]
pub(super) enum KeyAction {
    Created,
    Imported,
    Updated,
    Disabled,
    Enabled,
    Expired,
    Revoked,
    Leaked,
    Rotated { to: KeyId },
}

impl KeyAction {
    /// Returns the audit event.
    pub(crate) fn event(self, key: KeyId, by: Option<&str>) -> AuditEvent {
        let (key_id, by) = (key.as_str().into(), by.map(Into::into));
        match self {
            Self::Created => AuditEvent::KeyCreated { key_id, by },
            Self::Imported => AuditEvent::KeyImported { key_id, by },
            Self::Updated => AuditEvent::KeyUpdated { key_id, by },
            Self::Disabled => AuditEvent::KeyDisabled { key_id, by },
            Self::Enabled => AuditEvent::KeyEnabled { key_id, by },
            Self::Expired => AuditEvent::KeyExpired { key_id, by },
            Self::Revoked => AuditEvent::KeyRevoked { key_id, by },
            Self::Leaked => AuditEvent::KeyLeaked { key_id, by },
            Self::Rotated { to } => AuditEvent::KeyRotated {
                key_id,
                successor: to.as_str().into(),
                by,
            },
        }
    }
}
