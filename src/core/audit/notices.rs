//! The audit of the access log: notices, lost events, and conditional events.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::{
    audit::Audit,
    event::{AuditEvent, Auditor},
};
use crate::core::notice;

impl Audit {
    /// Sends an event if the function returns one. The function is not called if there is no
    /// auditor.
    pub(crate) fn emit_if(&self, event: impl FnOnce() -> Option<AuditEvent>) {
        if self.auditor.get().is_some()
            && let Some(event) = event()
        {
            self.emit(|| event);
        }
    }

    /// Returns the number of events that the auditor has lost.
    pub(crate) fn lost(&self) -> u64 {
        let lost = |auditor: &Arc<dyn Auditor>| {
            catch_unwind(AssertUnwindSafe(|| auditor.lost())).unwrap_or(0)
        };
        self.auditor.get().map_or(0, lost)
    }

    /// Sends all later notices in this process as events for as long as a clone of this audit
    /// exists.
    pub(crate) fn forward_notices(&self) {
        let auditor = Arc::downgrade(&self.auditor);
        notice::listen(move |message| {
            let Some(auditor) = auditor.upgrade() else {
                return false;
            };
            Self { auditor }.emit(|| AuditEvent::ConfigWarning {
                message: message.into(),
            });
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Debug, Default)]
    struct Ears(Arc<Mutex<Vec<AuditEvent>>>);

    impl Auditor for Ears {
        fn audit(&self, event: &AuditEvent) {
            self.0.lock().unwrap().push(event.clone());
        }
    }

    #[test]
    fn notices_are_forwarded_while_the_auditor_exists() {
        let ears = Ears::default();
        let audit = Audit::to(ears.clone());
        audit.forward_notices();
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
