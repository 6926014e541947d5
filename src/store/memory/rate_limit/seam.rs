//! What the table is built on. A test that tries all interleavings has another such file.

pub(super) use std::{
    hint::spin_loop,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::yield_now,
};

/// The slots of a group.
pub(super) const GROUP: usize = 128;
