//! Our access log, beside the peers.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use portcullis::access_log::{AccessLogLayer, sinks::{JsonLines, LogQueue, TracingSink}, Level, LogEntry, LogQuery, LogStore, LogStream};
use portcullis::{Runtime, StoreFuture, Task};
use tower::Layer;

use crate::harness::{Case, Run};
use crate::workload::{Requests, drive, origin};

/// The number of requests that a queue takes before its batch is stored.
const BATCH: u64 = 512;

pub fn cases() -> Vec<Case> {
    let requests = Requests::default;
    // The default: all fields, the query redacted, a name for the request.
    let json = AccessLogLayer::new(JsonLines::direct(io::sink()));
    // Records go to `tracing`, and nobody listens: what the peer's row is, too.
    let disabled = AccessLogLayer::new(TracingSink);
    // All that a record costs but for writing it.
    let unwritten = AccessLogLayer::builder()
        .sink(JsonLines::direct(io::sink()))
        .min_level(Level::Error)
        .build()
        .expect("nothing is wrong with it");
    vec![
        Case::ours("log/json", drive(json.clone().layer(origin()), requests())),
        Case::ours("log/disabled", drive(disabled.layer(origin()), requests())),
        Case::ours(
            "log/unwritten",
            drive(unwritten.layer(origin()), requests()),
        ),
        Case::ours("log/queue", queued()),
        // What handing a record to the queue adds to encoding it stands in this ratio.
        Case::peer("log/queue", "json", drive(json.layer(origin()), requests())),
    ]
}

/// Records go to a queue, and from there in batches to a store that forgets them at once. The task
/// that stores runs on this thread, between the requests, so that its work counts as well.
fn queued() -> Run {
    let runtime = BetweenRequests::default();
    let queue = LogQueue::builder(Forgets, runtime.clone())
        .build()
        .expect("nothing is wrong with it");
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

/// Runs tasks when it is told to, and lets sleepers wake then.
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
                "a store that answers at once leaves nothing to wait for"
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

/// A store that takes everything and keeps nothing.
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
