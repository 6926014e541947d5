//! Who is told of what auditors ask for.

use std::{
    fmt,
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::{key::KeyId, refusal::Denied};
use crate::{
    audit::{AuditEvent, Auditor},
    record::{AuthOutcome, RecordHandle},
};

/// The auditor, if there is one.
#[derive(Clone, Default)]
pub(super) struct Audit {
    auditor: Option<Arc<dyn Auditor>>,
}

impl Audit {
    pub(super) fn new(auditor: impl Auditor) -> Self {
        Self {
            auditor: Some(Arc::new(auditor)),
        }
    }

    /// Tells of what has happened. Should the auditor panic, what happened stands: whoever did it
    /// must not take it for failed.
    pub(super) fn tell(&self, event: impl FnOnce() -> AuditEvent) {
        if let Some(auditor) = &self.auditor {
            let event = event();
            let _ = catch_unwind(AssertUnwindSafe(|| auditor.audit(&event)));
        }
    }

    /// Tells of a caller that is turned away.
    pub(super) fn tell_denied(
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

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.auditor {
            Some(_) => "Audit(somebody)",
            None => "Audit(nobody)",
        })
    }
}

/// What was done to a key, for the trail.
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
    /// Returns the event that tells of it.
    pub(super) fn event(self, key: KeyId, by: Option<&str>) -> AuditEvent {
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
