//! Creations that are under way, for stores that cannot count and create in one step.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The number of keys that are being created for each owner.
#[derive(Default)]
pub(crate) struct Creating {
    owners: Mutex<HashMap<String, usize>>,
}

/// One creation under way.
pub(crate) struct Begun<'a> {
    creating: &'a Creating,
    owner: String,
    /// The number of creations that began before this one, and may still succeed.
    pub(crate) ahead: usize,
}

impl Creating {
    /// Begins a creation. Each counts those that began before it, so that together they never exceed a
    /// maximum.
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
