//! The synchronization primitives of the table. `tests/interleavings.rs` replaces this file in
//! order to use loom.

pub(super) use std::{
    hint::spin_loop,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::yield_now,
};

/// The number of slots in a group: one page of memory.
pub(super) const GROUP: usize = 128;

/// The lower bound of the number of groups that are initially in use, if the table is large enough.
/// The actual number is less than twice this bound.
pub(super) const COMPACT_GROUPS: usize = 64;
