//! The global allocator, which counts the allocations of each thread.

#![expect(unsafe_code, reason = "a global allocator needs it")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static COUNTS: Cell<Counts> = const {
        Cell::new(Counts { allocations: 0, bytes: 0, freed: 0 })
    };
}

/// The allocations of this thread since it started. A reallocation counts as one.
#[derive(Clone, Copy)]
pub struct Counts {
    pub allocations: u64,
    pub bytes: u64,
    freed: u64,
}

impl Counts {
    pub fn now() -> Self {
        COUNTS.get()
    }

    fn live_bytes(self) -> i64 {
        self.bytes as i64 - self.freed as i64
    }
}

/// Returns the result of `build`, and the bytes of its allocations that are still live.
pub fn live_bytes<T>(build: impl FnOnce() -> T) -> (T, i64) {
    let before = Counts::now().live_bytes();
    let built = build();
    (built, Counts::now().live_bytes() - before)
}

struct Counting;

impl Counting {
    fn count(allocations: u64, bytes: usize, freed: usize) {
        // A terminating thread has no counters, and is not measured.
        let _ = COUNTS.try_with(|counts| {
            let Counts {
                allocations: before,
                bytes: asked,
                freed: given_back,
            } = counts.get();
            counts.set(Counts {
                allocations: before + allocations,
                bytes: asked + bytes as u64,
                freed: given_back + freed as u64,
            });
        });
    }
}

// SAFETY: every call is forwarded unchanged to the system's allocator; counting touches only a
// thread-local cell that needs neither an allocation nor a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count(1, layout.size(), 0);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::count(1, layout.size(), 0);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        Self::count(1, new_size, layout.size());
        unsafe { System.realloc(old, layout, new_size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        Self::count(0, 0, layout.size());
        unsafe { System.dealloc(old, layout) }
    }
}
