//! The latest records of each trail, bounded.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    access_log::{Ring, Trail},
    store::memory::store::Shelf,
};

/// The latest entries of each trail, each trail within the bounds.
pub(crate) struct Part {
    access: Mutex<Ring>,
    audit: Mutex<Ring>,
}

impl Part {
    pub(crate) fn new(shelf: &Shelf) -> Self {
        let bounds = &shelf.bounds;
        let ring = || Mutex::new(Ring::new(bounds.log_records_max, bounds.log_bytes_max));
        Self {
            access: ring(),
            audit: ring(),
        }
    }

    pub(super) fn trail(&self, trail: Trail) -> MutexGuard<'_, Ring> {
        let ring = match trail {
            Trail::Access => &self.access,
            Trail::Audit => &self.audit,
        };
        ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("access_log::Part")
    }
}
