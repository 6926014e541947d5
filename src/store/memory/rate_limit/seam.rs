//! What the table is built on. A test that tries all interleavings has another such file.

pub(super) use std::{
    hint::spin_loop,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::yield_now,
};

/// The slots of a group: as many as fill a page of memory.
pub(super) const GROUP: usize = 128;

/// The groups in which all keys stand while they are few.
pub(super) const COMPACT_GROUPS: usize = 64;
