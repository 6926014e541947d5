//! The audit of a layer, which reports the layer's events to an auditor.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock},
};

use super::event::{AuditEvent, Auditor};
/// The destination of a layer's events: an auditor from the layer's configuration, or the auditor
/// of the gate.
///
/// Clones share the auditor, even if it is set later.
#[derive(Clone, Default)]
pub(crate) struct Audit {
    pub(super) auditor: Arc<OnceLock<Arc<dyn Auditor>>>,
}

impl Audit {
    /// Sends events to this auditor.
    pub(crate) fn to(auditor: impl Auditor) -> Self {
        let audit = Self::default();
        audit.adopt(&(Arc::new(auditor) as Arc<dyn Auditor>));
        audit
    }

    /// Sets the auditor unless there is one. Returns `true` if it was set.
    pub(crate) fn adopt(&self, auditor: &Arc<dyn Auditor>) -> bool {
        self.auditor.set(Arc::clone(auditor)).is_ok()
    }

    /// Sends an event. A panic in the auditor is caught, so the operation does not fail.
    pub(crate) fn emit(&self, event: impl FnOnce() -> AuditEvent) {
        if let Some(auditor) = self.auditor.get() {
            let event = event();
            let _ = catch_unwind(AssertUnwindSafe(|| auditor.audit(&event)));
        }
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
    use crate::core::error::StoreErrorKind;

    /// Stores the events. Panics when a store becomes unavailable.
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
    fn first_auditor_receives_the_events_of_all_clones() {
        let (audit, first, second) = (Audit::default(), Ears::default(), Ears::default());
        let clone = audit.clone();
        clone.emit(|| unreachable!("nobody is told"));
        assert!(audit.adopt(&(Arc::new(first.clone()) as _)));
        assert!(!audit.adopt(&(Arc::new(second.clone()) as _)));
        clone.emit(up);
        assert_eq!(*first.0.lock().unwrap(), [up()]);
        assert!(second.0.lock().unwrap().is_empty());
    }

    #[test]
    fn panicking_auditor_does_not_stop_later_events() {
        let ears = Ears::default();
        let audit = Audit::to(ears.clone());
        audit.emit(|| AuditEvent::StoreDown {
            store: "cache".into(),
            kind: StoreErrorKind::Timeout,
        });
        audit.emit(up);
        assert_eq!(ears.0.lock().unwrap().len(), 2);
    }
}
