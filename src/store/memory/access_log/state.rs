//! The latest records in each log stream.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    access_log::{LogStream, Ring},
    store::memory::context::MemoryContext,
};

/// The latest entries in each log stream, within the limits of each stream.
pub(crate) struct LogRings {
    access: Mutex<Ring>,
    audit: Mutex<Ring>,
}

impl LogRings {
    pub(crate) fn new(context: &MemoryContext) -> Self {
        let bounds = &context.limits;
        let ring = || Mutex::new(Ring::new(bounds.max_log_records, bounds.max_log_bytes));
        Self {
            access: ring(),
            audit: ring(),
        }
    }

    pub(super) fn trail(&self, trail: LogStream) -> MutexGuard<'_, Ring> {
        let ring = match trail {
            LogStream::Access => &self.access,
            LogStream::Audit => &self.audit,
        };
        ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for LogRings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("access_log::LogRings")
    }
}
