//! Tests of bounds in real time, on a machine that may be busy.

use std::{
    panic::resume_unwind,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

/// The longest delay of a thread that sleeps, on a machine that runs threads in time. A server on a
/// busy machine is delayed by more than that too.
const STALL_MAX: Duration = Duration::from_millis(3);

const ATTEMPTS: u32 = 10;

/// Runs a test that has bounds in real time.
///
/// A failure counts only if the machine ran the threads of this process in time. Otherwise the test
/// is repeated, up to ten times in all.
pub(crate) fn on_a_calm_machine<T: Future<Output = ()>>(test: impl Fn() -> T + Sync) {
    for attempt in 1..=ATTEMPTS {
        let is_over = AtomicBool::new(false);
        let (result, stall) = thread::scope(|scope| {
            let stall = scope.spawn(|| longest_stall(&is_over));
            let result = scope.spawn(|| runtime().block_on(test())).join();
            is_over.store(true, Ordering::Relaxed);
            (result, stall.join().unwrap())
        });
        match result {
            Ok(()) => return,
            Err(_) if stall > STALL_MAX && attempt < ATTEMPTS => {
                eprintln!("attempt {attempt} does not count: a thread was delayed by {stall:?}");
            }
            Err(panic) => {
                eprintln!("attempt {attempt} failed; no thread was delayed by more than {stall:?}");
                resume_unwind(panic)
            }
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// Returns the longest delay of a thread that sleeps one millisecond at a time.
fn longest_stall(is_over: &AtomicBool) -> Duration {
    let pause = Duration::from_millis(1);
    let mut longest = Duration::ZERO;
    while !is_over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        thread::sleep(pause);
        longest = longest.max(begun.elapsed().saturating_sub(pause));
    }
    longest
}

#[test]
fn failure_on_a_calm_machine_counts() {
    let outcome = std::panic::catch_unwind(|| on_a_calm_machine(async || panic!("too late")));
    assert!(outcome.is_err());
}
