//! Concurrent key creations, for stores that cannot count and create in one step.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The number of keys being created per owner.
#[derive(Default)]
pub(crate) struct Creating {
    owners: Mutex<HashMap<String, usize>>,
}

/// A key creation in progress.
pub(crate) struct Begun<'a> {
    creating: &'a Creating,
    owner: String,
    /// The number of earlier creations that can still succeed.
    pub(crate) ahead: usize,
}

impl Creating {
    /// Registers a creation. Each creation counts the earlier creations, so that together they
    /// never exceed the maximum.
    pub(crate) fn begin(&self, owner: &str) -> Begun<'_> {
        let mut owners = lock(&self.owners);
        let count = owners.entry(owner.to_owned()).or_default();
        let ahead = *count;
        *count += 1;
        Begun {
            creating: self,
            owner: owner.to_owned(),
            ahead,
        }
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        let mut owners = lock(&self.creating.owners);
        if let Entry::Occupied(mut own) = owners.entry(std::mem::take(&mut self.owner)) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}

impl fmt::Debug for Creating {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Creating")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No foreign code runs under this lock.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
