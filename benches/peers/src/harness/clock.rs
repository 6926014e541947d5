//! The CPU time and the allocations of the calling thread.

use rustix::time::{ClockId, clock_gettime};

use super::allocator::Counts;

/// The CPU time and the allocations of one thread, since its start or over a batch.
#[derive(Clone, Copy)]
pub struct Spent {
    pub nanos: u64,
    pub allocations: u64,
    pub bytes: u64,
}

impl Spent {
    /// Returns the totals of the calling thread.
    pub fn by_this_thread() -> Self {
        let Counts {
            allocations, bytes, ..
        } = Counts::now();
        let spent = clock_gettime(ClockId::ThreadCPUTime);
        Self {
            nanos: spent.tv_sec as u64 * 1_000_000_000 + spent.tv_nsec as u64,
            allocations,
            bytes,
        }
    }

    /// Returns the difference between two totals of one thread.
    pub fn since(self, before: Self) -> Self {
        Self {
            nanos: self.nanos - before.nanos,
            allocations: self.allocations - before.allocations,
            bytes: self.bytes - before.bytes,
        }
    }
}
