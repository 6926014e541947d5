//! The primitives of the table. `tests/interleavings.rs` replaces this file by those of loom.

pub(super) use std::{
    hint::spin_loop,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::yield_now,
};

/// The slots of a group: one page of memory.
pub(super) const GROUP: usize = 128;

/// The lower bound of the groups in use at first, if the table has as many. They are at most twice as
/// many.
pub(super) const COMPACT_GROUPS: usize = 64;
