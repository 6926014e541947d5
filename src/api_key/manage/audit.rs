//! Audit events of keys and callers.

use std::net::IpAddr;

use crate::{
    api_key::authenticate::rejection::Denied,
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

    pub(crate) fn emit(&self, event: impl FnOnce() -> AuditEvent) {
        self.ground.emit(event);
    }

    /// Sends the event of a rejected caller.
    pub(crate) fn emit_denied(
        &self,
        denied: &Denied,
        record: Option<&RecordHandle>,
        client: impl FnOnce() -> Option<IpAddr>,
    ) {
        let AuthOutcome::Denied { reason, key_id } = &denied.outcome else {
            return;
        };
        self.emit(|| {
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
