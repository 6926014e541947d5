//! Our access log.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use portcullis::access_log::{
    AccessLogLayer, LogLevel, LogQuery, LogStore, LogStream,
    record::LogEntry,
    sinks::{JsonLines, LogQueue, TracingSink},
};
use portcullis::{Runtime, StoreFuture, Task};
use tower::Layer;

use crate::harness::{Case, Run};
use crate::workload::{Requests, drive, origin};

/// The number of requests per stored batch of a queue.
const BATCH: u64 = 512;

pub fn cases() -> Vec<Case> {
    let requests = Requests::default;
    // The default: all fields, a redacted query, a request id.
    let json = AccessLogLayer::new(JsonLines::direct(io::sink()));
    // Records go to `tracing` without a subscriber, as in the peer's row.
    let disabled = AccessLogLayer::new(TracingSink);
    // The cost of a record without writing it.
    let unwritten = AccessLogLayer::builder()
        .sink(JsonLines::direct(io::sink()))
        .min_level(LogLevel::Error)
        .build()
        .expect("the configuration is valid");
    vec![
        Case::ours("log/json", drive(json.clone().layer(origin()), requests())),
        Case::ours("log/disabled", drive(disabled.layer(origin()), requests())),
        Case::ours(
            "log/unwritten",
            drive(unwritten.layer(origin()), requests()),
        ),
        Case::ours("log/queue", queued()),
        // This ratio is the cost of the queue relative to encoding.
        Case::peer("log/queue", "json", drive(json.layer(origin()), requests())),
    ]
}

/// Sends records to a queue, and in batches to a store that discards them. The storing task runs on
/// this thread, between the requests, so that its work counts too.
fn queued() -> Run {
    let runtime = BetweenRequests::default();
    let queue = LogQueue::builder(Forgets, runtime.clone())
        .build()
        .expect("the configuration is valid");
    let mut run = drive(
        AccessLogLayer::new(queue).layer(origin()),
        Requests::default(),
    );
    Box::new(move |iterations| {
        let mut left = iterations;
        while left > 0 {
            let batch = left.min(BATCH);
            run(batch);
            runtime.run();
            left -= batch;
        }
    })
}

thread_local! {
    static TASKS: RefCell<Vec<Task>> = const { RefCell::new(Vec::new()) };
}

/// A runtime that runs tasks and timers on demand.
#[derive(Clone, Debug, Default)]
struct BetweenRequests {
    awake: Arc<AtomicBool>,
}

impl BetweenRequests {
    fn run(&self) {
        self.awake.store(true, Ordering::Relaxed);
        let tasks = TASKS.with(RefCell::take);
        for mut task in tasks {
            let poll = task.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(
                poll.is_ready(),
                "a store that is always ready leaves no task pending"
            );
        }
        self.awake.store(false, Ordering::Relaxed);
    }
}

impl Runtime for BetweenRequests {
    fn spawn(&self, task: Task) {
        TASKS.with(|tasks| tasks.borrow_mut().push(task));
    }

    fn sleep(&self, _: Duration) -> Task {
        let awake = Arc::clone(&self.awake);
        Box::pin(std::future::poll_fn(move |_| {
            if awake.load(Ordering::Relaxed) {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        }))
    }
}

/// A store that discards all records.
#[derive(Debug)]
struct Forgets;

impl LogStore for Forgets {
    fn append(&self, _: LogStream, _: &[LogEntry]) -> StoreFuture<()> {
        StoreFuture::ready(())
    }

    fn recent(&self, _: LogStream, _: &LogQuery) -> StoreFuture<Vec<LogEntry>> {
        StoreFuture::ready(Vec::new())
    }
}
