//! The CPU time of the thread that asks: what others do on the machine does not count.

use rustix::time::{ClockId, clock_gettime};

/// Returns the nanoseconds that this thread has spent on a CPU.
pub fn thread_cpu_nanos() -> u64 {
    let spent = clock_gettime(ClockId::ThreadCPUTime);
    spent.tv_sec as u64 * 1_000_000_000 + spent.tv_nsec as u64
}
